"""What survives the manager: its database, its secret, and their backup."""
