"""Upload and download files, follow a command while it runs, and start a background process.

Run it::

    python files_and_commands.py

It prints::

    uploaded: input.txt
    line 1: apple
    line 2: pear
    line 3: plum
    created: count.txt
    the command failed with exit code 2
    the server in the background has 3 lines
    downloaded: 3 lines
"""

from e2b import CommandExitException
from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b

patch_e2b(False)  # patch_e2b() where the manager speaks https

if __name__ == "__main__":
    with Sandbox.create() as sbx:
        sbx.files.make_dir("fruit")
        watcher = sbx.files.watch_dir("fruit")

        sbx.files.write("input.txt", "apple\npear\nplum\n")
        print("uploaded:", sbx.files.get_info("input.txt").name)

        sbx.commands.run(
            "n=0; while read -r name; do n=$((n+1)); echo line $n: $name; sleep 0.2; done < input.txt",
            on_stdout=lambda text: print(text, end=""),
        )

        sbx.commands.run("echo $(wc -l < input.txt) lines > fruit/count.txt")
        print("created:", *{event.name for event in watcher.get_new_events()})
        watcher.stop()

        try:
            sbx.commands.run("exit 2")
        except CommandExitException as error:
            print("the command failed with exit code", error.exit_code)

        server = sbx.commands.run("python3 -m http.server 8000", background=True, timeout=0)
        sbx.commands.run("until curl -fs localhost:8000 > /dev/null; do sleep 0.1; done")
        page = sbx.commands.run("curl -s localhost:8000/fruit/count.txt")
        print("the server in the background has", page.stdout, end="")
        server.kill()

        print("downloaded:", sbx.files.read("fruit/count.txt"), end="")
