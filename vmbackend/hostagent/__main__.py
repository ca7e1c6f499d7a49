"""`python -m vmbackend.hostagent`"""

import sys

from vmbackend.hostagent.agent import main

sys.exit(main(sys.argv[1:]))
