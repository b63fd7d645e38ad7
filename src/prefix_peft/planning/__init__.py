"""What a prefix takes to train and to decode with: counted on a model without weights, before anything is loaded."""
