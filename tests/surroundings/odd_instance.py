"""`diminet serve`, but odd as `oddity.json` beside its configuration says; without that file as it is.

clock             seconds that its clock is ahead of this machine's
protocol_major    of the protocol between instances
"""

import json
import sys
import time
from pathlib import Path

config = Path(sys.argv[sys.argv.index("--config") + 1])
oddity = config.with_name("oddity.json")
odd = json.loads(oddity.read_text()) if oddity.exists() else {}

# Before anything of DIMINET is imported: much of it takes `time.time` as a default argument.
if "clock" in odd:
    right = time.time
    time.time = lambda: right() + odd["clock"]
if "protocol_major" in odd:
    import diminet.messages

    diminet.messages.PROTOCOL_MAJOR = odd["protocol_major"]  # type: ignore[misc]

from diminet.cli.main import main  # noqa: E402

sys.exit(main(sys.argv[1:]))
