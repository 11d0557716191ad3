"""Several sandboxes at once, with the SDK's asynchronous classes.

Run it::

    python asynchronous.py

It prints::

    0 squared is 0
    1 squared is 1
    2 squared is 4
"""

import asyncio

from e2b_code_interpreter import AsyncSandbox

from kruise_agents.patch_e2b import patch_e2b

patch_e2b(False)  # patch_e2b() where the manager speaks https


async def square(number: int) -> str:
    sbx = await AsyncSandbox.create()
    async with sbx:
        execution = await sbx.run_code(f"{number} ** 2")
        return f"{number} squared is {execution.text}"


async def main() -> None:
    for line in await asyncio.gather(*(square(number) for number in range(3))):
        print(line)


if __name__ == "__main__":
    asyncio.run(main())
