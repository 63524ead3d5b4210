"""Results by hash: written whole or not at all, leased, checked, listed, carried between stores. Knows no models."""

from vltickets.store.atomic import sha256, write_file, write_folder
from vltickets.store.divergence import Divergence, divergence, divergence_path, divergences_behind, note_divergence
from vltickets.store.exchange import export_records, import_records
from vltickets.store.store import FORMAT, Record, Store, check_format, check_study_name
from vltickets.store.tidy import tidy

__all__ = [
    "FORMAT",
    "Divergence",
    "Record",
    "Store",
    "check_format",
    "check_study_name",
    "divergence",
    "divergence_path",
    "divergences_behind",
    "export_records",
    "import_records",
    "note_divergence",
    "sha256",
    "tidy",
    "write_file",
    "write_folder",
]
