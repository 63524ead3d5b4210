"""Results by hash: written whole or not at all, leased, checked, listed, carried between stores. Knows no models."""

from vltickets.store.atomic import sha256, write_file, write_folder
from vltickets.store.exchange import export_records, import_records
from vltickets.store.store import FORMAT, Record, Store, check_format, check_study_name

__all__ = [
    "FORMAT",
    "Record",
    "Store",
    "check_format",
    "check_study_name",
    "export_records",
    "import_records",
    "sha256",
    "write_file",
    "write_folder",
]
