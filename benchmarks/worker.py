"""One round of one contender, in this process: python -m benchmarks.worker NAME MESSAGES."""

from __future__ import annotations

import json
import sys

from .contenders import BY_NAME

if __name__ == "__main__":
    name, messages = sys.argv[1:]
    print(json.dumps(BY_NAME[name].measure(int(messages))))
