"""A transformer in NumPy, one position and one head at a time: the independent truth of the model's tests."""

import math

import numpy as np


def weights(model):
    """The model's weights as float64 NumPy arrays by attribute path, e.g. "blocks.qkv"."""
    found = {}

    def walk(module, prefix):
        for name, value in vars(module).items():
            if hasattr(value, "shape"):
                found[prefix + name] = np.asarray(value[...], np.float64)
            elif hasattr(value, "__dict__") and not name.startswith("_") and name != "config":
                walk(value, f"{prefix}{name}.")

    walk(model, "")
    return found


def logits(model, ids):
    """[T, V] for one row of ids, from the definitions of GPT-2 and Llama-2."""
    c, w = model.config, weights(model)
    gpt2 = c.style == "gpt2"
    size, keys = c.width // c.heads, c.kv_heads or c.heads
    shared = c.heads // keys

    def norm(name, layer, x):
        at = (lambda v: v) if layer is None else (lambda v: v[layer])
        if gpt2:
            x = (x - x.mean()) / math.sqrt(x.var() + c.norm_eps)
            return x * at(w[f"{name}.scale"]) + at(w[f"{name}.bias"])
        return x / math.sqrt((x * x).mean() + c.norm_eps) * at(w[f"{name}.scale"])

    def turned(vector, position):
        if gpt2:
            return vector
        out, half = np.zeros(size), size // 2
        for i in range(half):
            angle = position / c.rope_theta ** (2 * i / size)
            a, b = vector[i], vector[i + half]
            out[i] = a * math.cos(angle) - b * math.sin(angle)
            out[i + half] = b * math.cos(angle) + a * math.sin(angle)
        return out

    stream = [w["tokens"][i] + (w["positions"][t] if gpt2 else 0.0) for t, i in enumerate(ids)]
    for layer in range(c.layers):
        q, k, v = [], [], []
        for t, x in enumerate(stream):
            fused = norm("blocks.norm_1", layer, x) @ w["blocks.qkv"][layer]
            if gpt2:
                fused = fused + w["blocks.qkv_bias"][layer]
            groups = fused.reshape(keys, shared + 2, size)
            q.append([turned(groups[h // shared, h % shared], t) for h in range(c.heads)])
            k.append([turned(groups[h, shared], t) for h in range(keys)])
            v.append([groups[h, shared + 1] for h in range(keys)])
        for t, x in enumerate(stream):
            heads = []
            for h in range(c.heads):
                scores = [q[t][h] @ k[s][h // shared] / math.sqrt(size) for s in range(t + 1)]
                raised = np.exp(np.array(scores) - max(scores))
                heads.append(sum(r * v[s][h // shared] for s, r in enumerate(raised / raised.sum())))
            mixed = np.concatenate(heads) @ w["blocks.out"][layer]
            x = x + mixed + (w["blocks.out_bias"][layer] if gpt2 else 0.0)
            z = norm("blocks.norm_2", layer, x)
            up = z @ w["blocks.up"][layer]
            if gpt2:
                up = up + w["blocks.up_bias"][layer]
                hidden = 0.5 * up * (1 + np.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
            else:
                gate = z @ w["blocks.gate"][layer]
                hidden = gate / (1 + np.exp(-gate)) * up
            down = hidden @ w["blocks.down"][layer]
            stream[t] = x + down + (w["blocks.down_bias"][layer] if gpt2 else 0.0)
    table = w["tokens"] if c.tied else w["head"]
    return np.stack([norm("norm", None, x) @ table.T for x in stream])
