"""What can be learned from rewards and saved rollouts without a policy."""
