"""The store by what it tells and what the next life finds: group commit, replay, refusals to open, failures, answers."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from mesh.core.inputs import BodyRead, NewHead, Remembered, StoreFailed, StoryRead, Synced
from mesh.core.records.story import verify_story
from mesh.effects import ReadBody, ReadStory, Remember
from mesh.ids import content_hash
from mesh.limits import RecordsLimits
from mesh.messages.records import Accepted, Commit, Finished, Fork, Parked, Submitted
from mesh.messages.signed import Signed
from mesh.runtime.store import Store, StoreError
from mesh.runtime.store_file import connect
from mesh.wire.codec import decode_entry
from mesh.wire.packing import Refusal
from mesh.wire.signing import Keyring

# mypy and pytest both find these beside us; importlib mode has no package to name
from .conftest import FENCE, WALL_MS, Desk, opened, signer_from, story_of  # type: ignore[import-not-found]
