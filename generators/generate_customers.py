"""Write the files of the table customers only.

python -m generators.generate_customers --scale 1 --seed 42 --defects 0.01 --days 3
"""

from generators.command import run
from generators.customers import TABLE

if __name__ == "__main__":
    run(TABLE)
