"""``entrepot serve``: the HTTP gateway in the foreground."""

from pathlib import Path

import click


@click.command("serve")
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="Settings to use.")
@click.option("--host", help="Address to listen on; server.host by default.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one.")
@click.option("--json", "as_json", is_flag=True, help="Say where it listens as JSON.")
@click.option("--insecure-demo", is_flag=True, help="Start in spite of well-known credentials.")
def serve_command(
    *,
    config_path: Path | None,
    host: str | None,
    port: int | None,
    as_json: bool,
    insecure_demo: bool,
) -> None:
    """Answer webhooks, health checks and metrics until interrupted."""
    import json
    import logging
    import sys

    from entrepot.config import load
    from entrepot.gateway.assemble import assemble
    from entrepot.gateway.server import listen, make_server

    config = load(config_path, insecure_demo=insecure_demo)
    host = host or config.server.host
    logging.basicConfig(
        stream=sys.stderr,
        level=config.monitoring.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line a poll otherwise
    app = assemble(config)
    with listen(host, config.server.port if port is None else port) as listener:
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listener.getsockname()[1]}"
        click.echo(json.dumps({"url": url}) if as_json else f"serving on {url}")
        sys.stdout.flush()
        try:
            make_server(app).run(sockets=[listener])
        except KeyboardInterrupt:  # uvicorn stopped in order and then says why
            return
