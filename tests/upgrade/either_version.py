"""`diminet serve` of the older version, whose directory PYTHONPATH is; of this one where a file `newer` lies
beside the configuration, and then of the next minor version of the protocol."""

import os
import sys
from pathlib import Path

if Path(sys.argv[sys.argv.index("--config") + 1]).with_name("newer").exists():
    sys.path.remove(os.environ.pop("PYTHONPATH"))
    import diminet.messages

    diminet.messages.PROTOCOL_MINOR += 1  # type: ignore[misc]  # before `envelope` takes it

from diminet.cli.main import main

sys.exit(main(sys.argv[1:]))
