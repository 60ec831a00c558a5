"""How a run is launched and read; nothing imports these modules."""
