"""The memory-mapped store: each pattern once on disk, groups beside them (specs/store.md)."""

from ptycho_data.store.stores import Store, create_store, is_store, open_store, verify_store
from ptycho_data.store.writer import StoreWriter, create_store_from_chunks

__all__ = ["Store", "StoreWriter", "create_store", "create_store_from_chunks", "is_store", "open_store", "verify_store"]
