"""Writes models of random weights, the same each time: small, quick, and without sense.

`write_chat(path)`: one that goes on with texts, as GGUF. Words of letters are likelier than anything else, so
that with a temperature of 0 it writes and never ends by itself. `write_vectors(folder)`: one that makes
vectors, as safetensors."""
import array
import json
import os
import random
import struct


def noise(rng, count, scale=0.3):
    return array.array("f", (rng.gauss(0, scale) for _ in range(count)))


def ones(count):
    return array.array("f", [1.0] * count)


def write_chat(path):
    rng = random.Random(7)
    width, layers, heads, inner, length = 64, 2, 4, 128, 65536
    words = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % number for number in range(256)]
    kinds = [2, 3, 3] + [6] * 256
    special = len(words)
    syllables = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]
    words += ["\u2581"] + [chr(number) for number in range(33, 127)] + syllables
    words += ["\u2581" + syllable for syllable in syllables]
    kinds += [1] * (len(words) - special)
    scores = [0.0] * special + [-float(number) for number in range(special, len(words))]
    count = len(words)
    template = (
        "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}assistant {% endif %}"
    )

    def text(value):
        value = value.encode()
        return struct.pack("<Q", len(value)) + value

    def key(name, kind, value):
        return text(name) + struct.pack("<I", kind) + value

    def number(name, value):
        return key(name, 4, struct.pack("<I", value))

    def real(name, value):
        return key(name, 6, struct.pack("<f", value))

    def word(name, value):
        return key(name, 8, text(value))

    def many(name, kind, values):
        return key(name, 9, struct.pack("<IQ", kind, len(values)) + b"".join(values))

    keys = [
        word("general.architecture", "llama"),
        word("general.name", "random"),
        number("general.file_type", 0),
        number("llama.context_length", length),
        number("llama.embedding_length", width),
        number("llama.block_count", layers),
        number("llama.feed_forward_length", inner),
        number("llama.attention.head_count", heads),
        number("llama.attention.head_count_kv", heads),
        number("llama.rope.dimension_count", width // heads),
        real("llama.rope.freq_base", 10000.0),
        number("llama.vocab_size", count),
        real("llama.attention.layer_norm_rms_epsilon", 1e-5),
        word("tokenizer.ggml.model", "llama"),
        many("tokenizer.ggml.tokens", 8, [text(one) for one in words]),
        many("tokenizer.ggml.scores", 6, [struct.pack("<f", one) for one in scores]),
        many("tokenizer.ggml.token_type", 5, [struct.pack("<i", one) for one in kinds]),
        number("tokenizer.ggml.unknown_token_id", 0),
        number("tokenizer.ggml.bos_token_id", 1),
        number("tokenizer.ggml.eos_token_id", 2),
        word("tokenizer.chat_template", template),
    ]
    head = noise(rng, width * count)
    # Bytes and marks are as likely as the average of all words: among so many never the likeliest.
    head[: special * width] = array.array("f", bytes(4 * special * width))
    tensors = [
        ("token_embd.weight", [width, count], noise(rng, width * count, 1)),
        ("output_norm.weight", [width], ones(width)),
        ("output.weight", [width, count], head),
    ]
    for layer in range(layers):
        block = f"blk.{layer}."
        for name in ("attn_norm", "ffn_norm"):
            tensors.append((f"{block}{name}.weight", [width], ones(width)))
        for name in ("q", "k", "v", "output"):
            tensors.append((f"{block}attn_{name}.weight", [width, width], noise(rng, width * width)))
        for name, shape in (("gate", [width, inner]), ("up", [width, inner]), ("down", [inner, width])):
            tensors.append((f"{block}ffn_{name}.weight", shape, noise(rng, width * inner)))
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys))
    at = 0
    for name, shape, data in tensors:
        out += text(name) + struct.pack("<I", len(shape))
        out += b"".join(struct.pack("<Q", one) for one in shape) + struct.pack("<IQ", 0, at)
        at += (len(data) * 4 + 31) // 32 * 32
    for _, _, data in tensors:
        out += bytes(-len(out) % 32)
        out += data.tobytes()
    with open(path, "wb") as file:
        file.write(out + bytes(-len(out) % 32))


def write_vectors(folder):
    rng = random.Random(11)
    width, heads, depth, inner = 64, 4, 16, 128
    words = ["[UNK]", "<|endoftext|>"] + [chr(number) for number in range(32, 127)]
    os.makedirs(folder + "/1_Pooling")
    end = {"id": 1, "content": words[1], "special": True}
    end |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    module = "sentence_transformers.models."
    files = {
        "tokenizer.json": {
            "version": "1.0",
            "added_tokens": [end],
            "pre_tokenizer": {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": False},
            "model": {"type": "WordLevel", "vocab": {one: at for at, one in enumerate(words)}, "unk_token": words[0]},
        },
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": words[1]},
        "config.json": {
            "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu",
            "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 1,
            "head_dim": depth, "hidden_size": width, "intermediate_size": inner, "max_position_embeddings": 512,
            "max_window_layers": 1, "num_attention_heads": heads, "num_hidden_layers": 1,
            "num_key_value_heads": heads, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 10000,
            "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "float32", "use_cache": True,
            "use_sliding_window": False, "vocab_size": len(words),
        },
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": module + "Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": module + "Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": module + "Normalize"},
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": width, "include_prompt": True, "pooling_mode_lasttoken": True,
            "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False, "pooling_mode_weightedmean_tokens": False,
        },
    }
    for name, value in files.items():
        with open(f"{folder}/{name}", "w") as file:
            json.dump(value, file)
    tensors = {"embed_tokens.weight": [len(words), width], "norm.weight": [width]}
    for name in "qkvo":
        tensors[f"layers.0.self_attn.{name}_proj.weight"] = [width, width]
    for name in "qk":
        tensors[f"layers.0.self_attn.{name}_norm.weight"] = [depth]
    for name, shape in (("gate", [inner, width]), ("up", [inner, width]), ("down", [width, inner])):
        tensors[f"layers.0.mlp.{name}_proj.weight"] = shape
    for name in ("input", "post_attention"):
        tensors[f"layers.0.{name}_layernorm.weight"] = [width]
    head, data = {}, bytearray()
    for name, shape in tensors.items():
        values = ones(shape[0]) if len(shape) == 1 else noise(rng, shape[0] * shape[1])
        head[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(values) * 4]}
        data += values.tobytes()
    head = json.dumps(head).encode()
    head += b" " * (-len(head) % 8)
    with open(folder + "/model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head + data)
