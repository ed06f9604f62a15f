"""Log lines as the trainer writes them."""

from embodied.core.stats import wilson


def counters(env_steps=0, updates=0, episodes=0):
    return {"env_steps": env_steps, "updates": updates, "episodes": episodes, "wall_time": 1.5}


def phase(name, env_steps=0, updates=0):
    return {"kind": "phase", "step": 0, "phase": name, "counters": counters(env_steps, updates)}


def evaluation(of, successes, n=10, env_steps=0, updates=0, phase="online"):
    ledger = [
        {
            "index": i,
            "seed": 100 + i,
            "initial_state": f"{i:016x}",
            "episode_return": float(i < successes),
            "success": i < successes,
            "length": 7,
        }
        for i in range(n)
    ]
    return {
        "kind": "evaluation",
        "step": 0,
        "phase": phase,
        "of": of,
        "counters": counters(env_steps, updates),
        "metrics": {"eval/success": successes / n, "eval/return": successes / n},
        "interval": list(wilson(successes, n)),
        "ledger": ledger,
    }
