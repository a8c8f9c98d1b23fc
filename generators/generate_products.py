"""Write the files of the table products only.

python -m generators.generate_products --scale 1 --seed 42 --defects 0.01 --days 3
"""

from generators.command import run
from generators.products import TABLE

if __name__ == "__main__":
    run(TABLE)
