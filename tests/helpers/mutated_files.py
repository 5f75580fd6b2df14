"""Seeded mutations of model files, and a process that loads them one by one."""

import io
import json
import os
import random
import shutil
import struct
import sys
import time
import zipfile

from tensorflow.core.protobuf import saved_model_pb2

# What stands in the place of a value in JSON: other types, other sizes, nothing.
VALUES = (
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**62, 10**40, 0.5, -1e300),
    *(float("nan"), float("inf"), "", "a", "relu", "Dense", "\ud800", "x" * 5000, "../x", "\0"),
    *([], [[]], [None], [1, 2, 3], list(range(2000)), {}, {"a": 1}, {"class_name": "Dense"}),
    {"class_name": "function", "config": "relu", "module": "builtins", "registered_name": "relu"},
    {"class_name": "__tensor__", "config": {"value": [1.0], "dtype": "float32"}},
)


def mutated_bytes(data, draw):
    """Bytes with flipped bits, a lost end, a repeated or overwritten part."""
    data = bytearray(data)
    at = draw.randrange(max(1, len(data)))
    length = draw.randrange(1, 64)
    how = draw.choice(("flip", "flip", "cut", "copy", "insert", "remove", "fill"))
    if not data or how == "insert":
        data[at:at] = draw.randbytes(length)
    elif how == "flip":
        for _ in range(draw.randrange(1, 9)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif how == "cut":
        del data[at:]
    elif how == "copy":
        other = draw.randrange(len(data))
        data[at : at + length] = data[other : other + length]
    elif how == "remove":
        del data[at : at + length]
    else:
        data[at : at + length] = bytes([draw.choice((0, 255))]) * length
    return bytes(data)


def mutated_json(text, draw):
    """JSON text in which a value is replaced, lost, exchanged, wrapped or repeated."""
    value = json.loads(text)
    places = []
    stack = [value]
    while stack:
        one = stack.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one))
        places += [(one, key) for key in keys]
        stack += [one[key] for key in keys if isinstance(one[key], dict | list)]
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        owner, key = draw.choice(places)
        other, other_key = draw.choice(places)
        how = draw.choice(("replace", "replace", "replace", "lose", "exchange", "wrap", "rename"))
        try:
            if how == "replace":
                owner[key] = draw.choice(VALUES)
            elif how == "lose":
                del owner[key]
            elif how == "exchange":
                copies = json.loads(json.dumps([owner[key], other[other_key]]))
                other[other_key], owner[key] = copies
            elif how == "wrap":
                owner[key] = [owner[key]]
            elif isinstance(owner, dict):
                owner[draw.choice(("", "config", "class_name", "name"))] = owner.pop(key)
        except (KeyError, IndexError):
            continue  # lost before
    text = json.dumps(value)
    if draw.random() < 0.05:
        text = text.replace("{", '{"name": 1, "name": 2, ', 1)
    return text.encode("utf-16" if draw.random() < 0.03 else "utf-8", "surrogatepass")


def mutated_keras(source, target, draw):
    """A `.keras` file with one mutation, most of them behind right checksums."""
    how = draw.choice(("file", "config", "config", "config", "metadata", "weights", "members"))
    with open(source, "rb") as file:
        data = file.read()
    if how == "file":
        data = mutated_bytes(data, draw)
    else:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            contents = [(name, archive.read(name)) for name in archive.namelist()]
        names = [name for name, _ in contents]
        if how == "members":
            _mutate_members(contents, draw)
        else:
            index = names.index("model.weights.h5" if how == "weights" else f"{how}.json")
            change = mutated_bytes if how == "weights" else mutated_json
            contents[index] = (names[index], change(contents[index][1], draw))
        kind = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", kind) as archive:
            for name, content in contents:
                archive.writestr(name, content)
        data = buffer.getvalue()
        if draw.random() < 0.1:
            data = _with_another_checksum(data, draw)
    with open(target, "wb") as file:
        file.write(data)
    return how


def mutated_config(source, target, seed):
    """A `.keras` file whose config is mutated, and stored with a right checksum."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as copy:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "config.json":
                content = mutated_json(content, random.Random(seed))
            copy.writestr(name, content)


def _mutate_members(contents, draw):
    index, other = draw.randrange(len(contents)), draw.randrange(len(contents))
    name, content = contents[index]
    how = draw.choice(("lose", "rename", "exchange", "add", "empty"))
    if how == "lose":
        del contents[index]
    elif how == "rename":
        contents[index] = (draw.choice(("../x", "/x", "a\\b", "x" * 300, "assets/x")), content)
    elif how == "exchange":
        contents[index] = (name, contents[other][1])
        contents[other] = (contents[other][0], content)
    elif how == "add":
        contents.append((draw.choice(("assets/a", "model.weights.npz", "Config.json")), content))
    else:
        contents[index] = (name, b"")


def _with_another_checksum(data, draw):
    data = bytearray(data)
    entry = data.rindex(b"PK\x01\x02")
    struct.pack_into("<L", data, entry + 16, draw.randrange(1 << 32))
    return bytes(data)


def mutated_h5(source, target, draw):
    """A legacy HDF5 file with a mutation of its bytes, or of one of its configs."""
    import h5py

    shutil.copy(source, target)
    if draw.random() < 0.5:
        with h5py.File(target, "r+") as file:
            name = draw.choice(("model_config", "model_config", "training_config"))
            text = mutated_json(file.attrs[name], draw)
            file.attrs[name] = text.replace(b"\0", b" ")
        return "config"
    with open(source, "rb") as file:
        data = file.read()
    with open(target, "wb") as file:
        file.write(mutated_bytes(data, draw))
    return "file"


def mutated_saved_model(source, target, draw):
    """A SavedModel's directory with a mutation of one of its files, or of its graph."""
    shutil.copytree(source, target)
    files = sorted(
        os.path.join(folder, name) for folder, _, names in os.walk(target) for name in names
    )
    how = draw.choice(("file", "file", "graph", "graph", "lose", "exchange", "empty"))
    one, other = draw.choice(files), draw.choice(files)
    if how == "file":
        with open(one, "rb") as file:
            data = file.read()
        with open(one, "wb") as file:
            file.write(mutated_bytes(data, draw))
    elif how == "graph":
        _mutate_graph(os.path.join(target, "saved_model.pb"), draw)
    elif how == "lose":
        os.remove(one)
    elif how == "exchange":
        os.rename(one, f"{one}.x")
        if one != other:
            os.rename(other, one)
        os.rename(f"{one}.x", other)
    else:
        os.truncate(one, 0)
    return f"{how} {os.path.basename(one)}" if how != "graph" else how


def _mutate_graph(name, draw):
    model = saved_model_pb2.SavedModel()
    with open(name, "rb") as file:
        model.ParseFromString(file.read())
    graph = model.meta_graphs[0]
    functions = graph.graph_def.library.function
    function = draw.choice(functions)
    node = (
        draw.choice(function.node_def) if function.node_def else draw.choice(graph.graph_def.node)
    )
    saved = draw.choice(graph.object_graph_def.nodes)
    how = draw.randrange(9)
    if how == 0:
        node.op = draw.choice(("MatMul", "Identity", "", "NoSuchOperation", "While", "If"))
    elif how == 1 and node.input:
        node.input[0] = draw.choice(("", "x:0", "^x", node.name, node.name + ":output:0"))
    elif how == 2 and node.attr:
        del node.attr[draw.choice(sorted(node.attr))]
    elif how == 3:
        for value in node.attr.values():
            value.type = draw.randrange(40)
    elif how == 4:
        functions.remove(function)
    elif how == 5:
        saved.Clear()
    elif how == 6 and saved.children:
        saved.children[0].node_id = draw.choice((-1, 0, 2**30))
    elif how == 7:
        signature = graph.signature_def["serving_default"]
        for tensor in signature.inputs.values():
            tensor.dtype, tensor.name = draw.randrange(30), draw.choice(("", "x:0", tensor.name))
    else:
        saved.variable.shape.dim.add(size=draw.choice((-1, 0, 2**40)))
    with open(name, "wb") as file:
        file.write(model.SerializeToString())


def mutated_metadata(source, target, draw):
    """A SavedModel's directory whose metadata are mutated."""
    shutil.copytree(source, target)
    name = os.path.join(target, "assets.extra", "tfgrad.json")
    with open(name, "rb") as file:
        text = file.read()
    change = mutated_json if draw.random() < 0.85 else mutated_bytes
    with open(name, "wb") as file:
        file.write(change(text, draw))
    return change.__name__


KINDS = {
    "keras": (mutated_keras, ".keras"),
    "h5": (mutated_h5, ".h5"),
    "saved_model": (mutated_saved_model, ""),
    "metadata": (mutated_metadata, ""),
}


def write_sources(directory):
    """{kind: the sound file or directory} of small models."""
    import keras

    from tests.helpers.loading_cases import build
    from tfgrad import export

    network = build()
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    found = {kind: os.path.join(directory, f"good.{kind}") for kind in ("keras", "h5")}
    for path in found.values():
        network.save(path)
    keras.backend.clear_session()
    served = os.path.join(directory, "served")
    export.save(network, served, methods=["input_gradient"], image_range=(0, 1), classes=["a"] * 3)
    return {**found, "saved_model": f"{served}/1", "metadata": f"{served}/1"}


def write_mutated(directory, sources, counts, seed=0):
    """Write so many mutated files of each kind; yield (kind, what was mutated, path)."""
    for kind, count in counts.items():
        mutate, suffix = KINDS[kind]
        for index in range(count):
            draw = random.Random(f"{seed} {kind} {index}")
            path = os.path.join(directory, f"{kind}-{index:03d}{suffix}")
            yield kind, mutate(sources[kind], path, draw), path


def outcome(path):
    """How a file loads: "loaded", "rejected", or the name of an error of another family."""
    from tfgrad import loading
    from tfgrad.errors import ModelError

    try:
        if os.path.isdir(path):
            loading.load_served(path)
        else:
            loading.load(path)
    except ModelError as error:
        good = "; expected " in str(error) and ". Try: " in str(error) and len(str(error)) < 1200
        return "rejected" if good and str(error).isprintable() else f"worded as {error}"
    except Exception as error:
        return f"raw {type(error).__name__}: {error}"
    return "loaded"


def _peak():
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmHWM"].split()[0]) >> 10


def main():
    """Load every path of the standard input, and write a line of JSON for each."""
    import warnings

    warnings.simplefilter("ignore")
    import tfgrad  # noqa: F401

    print(json.dumps({"ready": _peak()}), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        result = outcome(line.rstrip("\n"))
        seconds = round(time.perf_counter() - start, 2)
        print(json.dumps({"result": result, "seconds": seconds, "peak": _peak()}), flush=True)


if __name__ == "__main__":
    main()
