"""An agent of smolagents whose code runs in a sandbox.

A script stands in for the language model, so that the program needs no model and no network. Use one of the models of
smolagents instead of ``Script`` for real work. It needs ``pip install smolagents``. The code
that smolagents sends to the sandbox imports numpy: with an embedded manager, install numpy in the manager's
environment.

Run it::

    python agent_framework.py

It prints::

    the agent's answer: Bonn has 338000 people
    its code ran as Linux, in the sandbox's folder /home/user
"""

from typing import Any

from smolagents import CodeAgent, tool
from smolagents.models import ChatMessage, MessageRole, Model
from smolagents.monitoring import LogLevel

from kruise_agents.patch_e2b import patch_e2b

patch_e2b(False)  # patch_e2b() where the manager speaks https


@tool
def population(city: str) -> int:
    """Return how many people live in a city.

    Args:
        city: The name of the city.
    """
    return {"Ulm": 129_000, "Bonn": 338_000}[city]


class Script(Model):
    """A model that gives prepared answers."""

    def __init__(self, *cells: str) -> None:
        super().__init__(model_id="script")
        self.cells = list(cells)

    def generate(self, messages: list[ChatMessage], *arguments: Any, **options: Any) -> ChatMessage:
        text = f"Thought: next\n<code>\n{self.cells.pop(0)}\n</code>"
        return ChatMessage(role=MessageRole.ASSISTANT, content=text)


if __name__ == "__main__":
    model = Script(
        "import os\nfolder = os.getcwd()\nbiggest = max(['Ulm', 'Bonn'], key=population)\nprint(biggest)",
        "final_answer([f'{biggest} has {population(biggest)} people', os.uname().sysname, folder])",
    )
    with CodeAgent([population], model, executor_type="e2b", verbosity_level=LogLevel.OFF) as agent:
        answer, system, folder = agent.run("Which city is bigger?")
    print("the agent's answer:", answer)
    print(f"its code ran as {system}, in the sandbox's folder {folder}")
