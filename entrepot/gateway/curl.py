"""The command that a person pastes to send a signed delivery: POSIX sh, openssl and curl.

Invariant: curl's command line never holds the secret, and sending again under the same ``id``
starts nothing again.
"""

import shlex
from typing import Final

_SCRIPT: Final = """\
secret={secret}
id={delivery_id}  # one delivery; another id starts another run
body={body}
timestamp=$(date +%s)
key=$(printf %s "${{secret#whsec_}}" | openssl base64 -A -d | od -An -v -tx1 | tr -d ' \\n')
signature=$(printf %s "$id.$timestamp.$body" |
  openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | openssl base64 -A)
curl --silent --show-error --fail-with-body --max-time 60 {url} \\
  --header 'content-type: application/json' \\
  --header "webhook-id: $id" \\
  --header "webhook-timestamp: $timestamp" \\
  --header "webhook-signature: v1,$signature" \\
  --data-raw "$body"
"""


def curl_script(url: str, *, secret: str, delivery_id: str, body: str = "{}") -> str:
    """A script that sends ``body`` to ``url`` under ``delivery_id``, signed now."""
    return _SCRIPT.format(
        secret=shlex.quote(secret),
        delivery_id=shlex.quote(delivery_id),
        body=shlex.quote(body),
        url=shlex.quote(url),
    )
