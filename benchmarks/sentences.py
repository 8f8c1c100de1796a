"""Make a sentence-transformers folder with real weights that no hub is needed for.

    pip download --no-deps wordllama && python -m zipfile -e wordllama-*.whl wordllama
    python benchmarks/sentences.py --wordllama wordllama --out runs/wordllama

The weights are those of wordllama (MIT licence): 256 numbers for each of 32,000 tokens, of which a
text's vector is the mean. ``benchmarks/studies/sentences.toml`` is a study on it.
"""

import argparse
from pathlib import Path

from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tokenizers import Tokenizer

PARTS = Path("wordllama/weights"), Path("wordllama/tokenizers")
NAMES = "l2_supercat_256.safetensors", "l2_supercat_tokenizer_config.json"


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--wordllama", type=Path, required=True, help="the unpacked wheel")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args()
    weights, tokenizer = (
        options.wordllama / part / name for part, name in zip(PARTS, NAMES, strict=True)
    )
    (vectors,) = load_file(weights).values()
    words = Tokenizer.from_file(str(tokenizer))
    # Padding would count as words.
    words.no_padding()
    embedding = StaticEmbedding(words, embedding_weights=vectors.float().numpy())
    SentenceTransformer(modules=[embedding, Normalize()], device="cpu").save(str(options.out))


if __name__ == "__main__":
    main()
