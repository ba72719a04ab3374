"""Run an experiment, as `interlock experiment run` does.

python run_pilot.py --config config_small_test.json --num-prompts 5
python run_pilot.py --config config_full_pilot.json --resume
python run_pilot.py --config config_full_pilot.json --prompts my_prompts.json --output results/x
"""

import sys

from interlock.cli import main

if __name__ == "__main__":
    main(["experiment", "run", *sys.argv[1:]])
