"""The reference deployment of the arm; `--help` lists its options.

    python scripts/reference_robotics_deployment.py --device cpu --epochs 2 --n-samples 6000

The same as `python -m interlock.strict.reference_robotics_deployment`.
"""

import sys

from interlock.strict.reference_robotics_deployment import main

if __name__ == "__main__":
    sys.exit(main())
