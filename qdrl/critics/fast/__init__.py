"""Hand-written forward and backward passes of the critics; `qdrl.critics.reference` is the same in plain torch."""
