"""What is computed from reduced datasets: differences, profiles, centres, and independent checks."""
