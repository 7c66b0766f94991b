"""The parts of explanation methods that Captum has not, has slower, or has wrong."""
