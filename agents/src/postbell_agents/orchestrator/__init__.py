"""The orchestrator: assigns tasks, watches them, answers for the mesh; one is active, the others stand by."""
