"""What a prefix costs, measured beside the bare model and beside PEFT's own methods: ``python benchmarks --help``."""
