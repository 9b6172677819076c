"""The control plane: flow graph, max-flow, generative flow and the plan of a run."""
