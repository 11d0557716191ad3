"""A table made with pandas, and a chart that comes back as a picture and as data.

The code in the sandbox uses pandas and matplotlib. For the embedded manager, install them beside the manager with
``pip install 'kruise-agents[local,data]'``. The picture is written to ``chart.png``.

Run it::

    python data_and_charts.py

It prints::

    {'north': 42, 'south': 27}
    chart.png begins with PNG
    bar chart "Sales": north 42, south 27
"""

import base64
from pathlib import Path

from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b

patch_e2b(False)  # patch_e2b() where the manager speaks https

TABLE = """
import pandas
sales = pandas.DataFrame({"region": ["north", "south", "north"], "amount": [30, 27, 12]})
totals = sales.groupby("region").amount.sum()
totals.to_dict()
"""
CHART = """
import matplotlib.pyplot as plt
plt.bar(totals.index, totals.values)
plt.title("Sales")
plt.show()
"""

if __name__ == "__main__":
    with Sandbox.create() as sbx:
        print(sbx.run_code(TABLE).text)
        (result,) = sbx.run_code(CHART).results  # the second call still has the variables of the first
    picture = Path("chart.png")
    picture.write_bytes(base64.b64decode(result.png))
    print(picture, "begins with", picture.read_bytes()[1:4].decode())
    bars = ", ".join(f"{bar.label} {bar.value:g}" for bar in result.chart.elements)
    print(f'{result.chart.type.value} chart "{result.chart.title}": {bars}')
