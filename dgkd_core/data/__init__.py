"""What a reader has made, on its way to a network: manifest, packs, pictures, crops."""
