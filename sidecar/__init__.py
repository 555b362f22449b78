"""The health sidecar: says from outside whether the agents work, and shows what they did."""
