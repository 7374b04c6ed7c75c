"""``entrepot object``: put, get, list, explain and remove objects; decrypt one offline."""
