"""What strangers and members may try against the wire, generated. `scripts/attack` runs it at full size; tests run a part."""
