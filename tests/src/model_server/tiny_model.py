"""Writes a model of the llama family with random weights into the folder given: for tests of what surrounds a model.

It says letters, each a token, the same ones each time, and never comes to an end by itself.
"""

import json
import pathlib
import sys

import numpy
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

HIDDEN, LAYERS, HEADS, WIDE, CONTEXT = 32, 2, 4, 64, 65536
SPECIAL = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def main():
    folder = pathlib.Path(sys.argv[1])
    # One token a byte, as the byte-level alphabet spells it.
    words = SPECIAL + sorted(pre_tokenizers.ByteLevel.alphabet())
    write_tokenizer(folder, words)
    write_weights(folder, words)
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": WIDE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "vocab_size": len(words),
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "eos_token_id": words.index("<|end|>"),
    }
    (folder / "config.json").write_text(json.dumps(config))


def write_tokenizer(folder, words):
    tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "chat_template": CHAT,
        "model_max_length": CONTEXT,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_weights(folder, words):
    random = numpy.random.default_rng(7)

    def weights(*shape):
        return (random.standard_normal(shape) / numpy.sqrt(shape[-1])).astype(numpy.float32)

    ones = numpy.ones(HIDDEN, numpy.float32)
    tensors = {
        "model.embed_tokens.weight": weights(len(words), HIDDEN),
        "model.norm.weight": ones,
        "lm_head.weight": weights(len(words), HIDDEN),
    }
    for number, word in enumerate(words):
        # What has no weight loses against anything that has some.
        if not "a" <= word <= "z":
            tensors["lm_head.weight"][number] = 0
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        for projection in "qkvo":
            tensors[f"{name}.self_attn.{projection}_proj.weight"] = weights(HIDDEN, HIDDEN)
        tensors[f"{name}.mlp.gate_proj.weight"] = weights(WIDE, HIDDEN)
        tensors[f"{name}.mlp.up_proj.weight"] = weights(WIDE, HIDDEN)
        tensors[f"{name}.mlp.down_proj.weight"] = weights(HIDDEN, WIDE)
        tensors[f"{name}.input_layernorm.weight"] = ones
        tensors[f"{name}.post_attention_layernorm.weight"] = ones
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})


main()
