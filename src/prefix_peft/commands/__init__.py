"""What the commands share: their options, the models that they load, the tables that they print."""
