"""A sandbox whose ports only answer requests that carry a traffic access token.

The metadata asks for protection. The second patch makes the SDK send the token and renew it before it expires. A
request of your own sends the token in a header.

Run it::

    python protected_sandbox.py

It prints::

    the SDK: protected
    without the token: 403
    with the token: 200
"""

import httpx
from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b
from kruise_agents.patch_traffic_token import patch_traffic_access_token

SCHEME = "http"
patch_e2b(False)  # patch_e2b() and SCHEME = "https" where the manager speaks https
patch_traffic_access_token()

WAIT = "until curl -fs localhost:8000 > /dev/null; do sleep 0.1; done"

if __name__ == "__main__":
    with Sandbox.create(metadata={"security.agents.kruise.io/enable-jwt-auth": "true"}) as sbx:
        print("the SDK:", sbx.commands.run("echo protected").stdout.strip())

        sbx.commands.run("python3 -m http.server 8000", background=True, timeout=0)
        sbx.commands.run(WAIT)
        url = f"{SCHEME}://{sbx.get_host(8000)}/"
        token = {"e2b-traffic-access-token": sbx.traffic_access_token}
        print("without the token:", httpx.get(url).status_code)
        print("with the token:", httpx.get(url, headers=token).status_code)
