"""What is computed from averages: differences, profiles, centres, independent checks."""
