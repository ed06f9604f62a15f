"""Robot-learning methods, one file each; `actor_critic.py` is what their family shares."""
