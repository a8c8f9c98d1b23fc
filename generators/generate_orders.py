"""Write the files of the table orders only.

python -m generators.generate_orders --scale 1 --seed 42 --defects 0.01 --days 3
"""

from generators.command import run
from generators.orders import TABLE

if __name__ == "__main__":
    run(TABLE)
