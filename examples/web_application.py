"""A web application in a sandbox: opened below a path, and under a name of its own.

In the private protocol an application is below the path ``/kruise/<sandbox id>/<port>/``. A relative link
(``notes.txt``) stays in the application. An absolute link (``/notes.txt``) leaves the path, and the manager refuses it.

An embedded manager on loopback also answers ``http://<port>-<sandbox id>.localhost:<port of the manager>``, where both
links work. Browsers and curl find this machine under that name by themselves. Python may not, so this program
connects to the manager and sends the name as ``Host``.

Run it::

    python web_application.py

It prints::

    below the path, relative link: 200 some notes
    below the path, absolute link: 500
    own name, relative link: 200 some notes
    own name, absolute link: 200 some notes
"""

import os
from urllib.parse import urljoin

import httpx
from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b

patch_e2b(False)  # patch_e2b() and https:// where the manager speaks https


def follow(page: str, link: str, host: str | None = None) -> str:
    """Follow a link of a page as a browser does, and return the status and what a success has brought."""
    answer = httpx.get(urljoin(page, link), headers={"Host": host} if host else None)
    return f"{answer.status_code} {answer.text if answer.is_success else ''}".strip()


if __name__ == "__main__":
    manager = os.environ["E2B_DOMAIN"]
    with Sandbox.create() as sbx:
        sbx.files.write("site/notes.txt", "some notes")
        sbx.commands.run("python3 -m http.server 8000 --directory site", background=True, timeout=0)
        sbx.commands.run("until curl -fs localhost:8000 > /dev/null; do sleep 0.1; done")

        page = f"http://{sbx.get_host(8000)}/"
        print("below the path, relative link:", follow(page, "notes.txt"))
        print("below the path, absolute link:", follow(page, "/notes.txt"))

        name = f"8000-{sbx.sandbox_id}.localhost"
        print("own name, relative link:", follow(f"http://{manager}/", "notes.txt", host=name))
        print("own name, absolute link:", follow(f"http://{manager}/", "/notes.txt", host=name))
