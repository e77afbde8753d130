"""The suite: unit, integration, process, browser and benchmarks; the folder says what a test costs."""
