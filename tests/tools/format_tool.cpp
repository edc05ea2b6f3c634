// Reads with one of Ponte's readers and writes with its writer, so that a Python oracle can compare both ends.
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>

#include "base/errors.h"
#include "format/hf_index.h"
#include "format/torch_dist.h"

using namespace ponte;

namespace {

void write_safetensors(const fs::path& file, const std::vector<TensorSpec>& specs, const std::function<std::span<const std::byte>(size_t)>& bytes) {
  const SafetensorsPlan plan = plan_safetensors(specs);
  OutputFile out(file);
  out.append(plan.header);
  for (size_t i = 0; i < specs.size(); ++i) out.write_at(plan.offsets[i], bytes(i));
  out.close();
}

// DIR OUT.safetensors: every tensor of a DCP folder, chunks put in place.
void dist_to_safetensors(const fs::path& directory, const fs::path& file) {
  const TorchDistReader reader(directory);
  std::vector<TensorSpec> specs;
  std::vector<std::vector<std::byte>> data;
  for (const TorchDistTensor& t : reader.tensors()) {
    specs.push_back({t.name, t.dtype, t.shape});
    data.emplace_back(static_cast<size_t>(tensor_bytes(specs.back())));
    const auto width = static_cast<size_t>(dtype_bytes(t.dtype));
    for (const TorchDistChunk& c : t.chunks) {
      const ChunkBytes chunk = reader.bytes(t, c, CheckCrc::yes);
      // Row by row along the last axis.
      const size_t rank = t.shape.size(), row = rank ? static_cast<size_t>(c.sizes[rank - 1]) : 1;
      std::vector<int64_t> at(rank, 0);
      for (size_t done = 0; done < chunk.bytes.size(); done += row * width) {
        int64_t to = 0;
        for (size_t i = 0; i < rank; ++i) to = to * t.shape[i] + c.offsets[i] + (i + 1 < rank ? at[i] : 0);
        std::memcpy(data.back().data() + static_cast<size_t>(to) * width, chunk.bytes.data() + done, row * width);
        for (size_t i = rank < 2 ? 0 : rank - 1; i-- > 0 && ++at[i] == c.sizes[i];) at[i] = 0;
      }
    }
  }
  write_safetensors(file, specs, [&](size_t i) { return std::span<const std::byte>(data[i]); });
}

// DIR OUT: the same chunks and objects through our writer; data in uneven pieces.
void dist_copy(const fs::path& from, const fs::path& to) {
  const TorchDistReader reader(from);
  fs::create_directories(to);
  TorchDistWriter writer(to, {.rank = 0, .files = 3});
  std::vector<ChunkBytes> data;
  for (const TorchDistTensor& t : reader.tensors())
    for (const TorchDistChunk& c : t.chunks) {
      data.push_back(reader.bytes(t, c));
      writer.add_chunk({t.name, t.dtype, t.shape}, c.offsets, c.sizes);
    }
  for (const std::string& name : reader.objects()) writer.add_object(name, reader.object(name));
  writer.begin();
  for (size_t i = data.size(); i-- > 0;) {
    const auto bytes = data[i].bytes;
    const size_t cut = bytes.size() / 3;
    writer.write(i, cut, bytes.subspan(cut));
    writer.write(i, 0, bytes.first(cut));
  }
  writer.finish();
  if (const auto common = reader.common_state()) save_torch_file(to / "common.pt", *common);
  write_file_atomically(to / "metadata.json", metadata_json());
}

void archive_copy(const fs::path& from, const fs::path& to) { save_torch_file(to, load_torch_file(from)); }

void hf_copy(const fs::path& from, const fs::path& to) {
  const HfCheckpoint in(from);
  std::vector<TensorSpec> specs;
  for (const HfTensor& t : in.tensors()) specs.push_back({t.name, t.dtype, t.shape});
  const HfShardPlan plan = plan_hf_shards(specs, in.total_bytes() / 3 + 1);
  fs::create_directories(to);
  for (const HfShard& shard : plan.shards) {
    OutputFile out(to / shard.file);
    out.append(shard.plan.header);
    for (size_t i = 0; i < shard.tensors.size(); ++i) out.write_at(shard.plan.offsets[i], in.tensors()[shard.tensors[i]].bytes);
    out.close();
  }
  if (!plan.index_json.empty()) write_file_atomically(to / kSafetensorsIndex, plan.index_json);
}

// Names each object of a DCP folder with its value in one line.
void dist_objects(const fs::path& directory, const fs::path&) {
  const TorchDistReader reader(directory);
  for (const std::string& name : reader.objects()) std::printf("%s\t%s\n", name.c_str(), describe(reader.object(name), 2000).c_str());
  if (const auto common = reader.common_state()) std::printf("common\t%s\n", describe(*common, 4000).c_str());
}

}  // namespace

int main(int argc, char** argv) try {
  const std::map<std::string, void (*)(const fs::path&, const fs::path&)> commands{{"dist-to-safetensors", dist_to_safetensors},
                                                                                   {"dist-copy", dist_copy},
                                                                                   {"archive-copy", archive_copy},
                                                                                   {"hf-copy", hf_copy},
                                                                                   {"dist-objects", dist_objects}};
  require(argc == 4 && commands.contains(argv[1]), "usage: ponte-format-tool COMMAND FROM TO");
  commands.at(argv[1])(argv[2], argv[3]);
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
