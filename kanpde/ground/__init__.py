"""What everything stands on: errors in one line, objects from options, random points, metrics, the session."""
