"""What each OpenVINO device can take, which of them are here, and what can be checked without one."""
