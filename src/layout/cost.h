// What steps cost on a stated machine. The rates are the vendors' data sheets (dense, without sparsity); how much of each a training step gets is an assumption
// of its own field, printed with every plan. Sources: NVIDIA A100, H100, H200, B200, B300, GB200 and L40S data sheets.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "layout/memory_activations.h"
#include "layout/mesh.h"
#include "layout/volume.h"

namespace ponte {

struct Accelerator {
  std::string_view name;
  double memory_gb;            // 1e9 bytes
  double matrix_tflops;        // bf16 and fp16
  double wide_tflops;          // fp32 through tf32
  double memory_tb_per_s;
  double link_gb_per_s;        // to another GPU of the node, one direction
  int64_t per_node;
  double network_gb_per_s;     // to another node, for each GPU, one direction
};
std::span<const Accelerator> accelerators();
// UserError naming the nearest.
const Accelerator& find_accelerator(std::string_view name);
// GB/s for each GPU: a name ("ndr400", "hdr200", "ethernet100") or Gbit/s ("400"). UserError otherwise.
double network_gb_per_s(std::string_view text);

// Shares of the rates above.
struct Efficiencies {
  double matrix = 0.70;        // dense products of many rows
  double experts = 0.45;       // products of experts with many rows each
  double half_rows = 128;      // a product of so few rows gets half of that
  double core = 0.50;          // attention, recurrence
  double memory = 0.80;        // everything else, bound by memory
  double link = 0.75, network = 0.75;
  double link_latency_us = 8, network_latency_us = 15;
  double overlap = 0.80;       // of communication that may run beside computation
  double reserved_gb = 2.0;    // driver context, libraries, communicators
  double fragmentation = 0.04; // of what is allocated
};

struct Machine {
  Accelerator gpu;
  double memory_bytes = 0;     // of one GPU
  int64_t per_node = 8;
  double network_gb_per_s = 50;
  Efficiencies efficiency;
};

// Where a group's ranks lie.
struct GroupSpan {
  int64_t ranks = 1, per_node = 1;  // how many of them share a node
};
GroupSpan span_of(const Mesh& mesh, GroupKind kind, int64_t per_node);

// Seconds of a collective: inside a node over its links, between nodes over the network interfaces of the group's own ranks, whichever takes longer.
double seconds(Movement movement, double bytes, const GroupSpan& span, const Machine& machine);

struct PassSeconds {
  double compute = 0, memory = 0, communication = 0;
  double total() const { return compute + memory + communication; }
};
PassSeconds operator+(const PassSeconds& a, const PassSeconds& b);
PassSeconds operator*(double times, const PassSeconds& a);

struct LayerSeconds {
  PassSeconds forward, backward;  // backward: what is computed again included
};
// What runs beside computation (comm_overlap.*); a ring of keys and values always does.
struct Overlaps {
  bool tensor = false, expert = false;
};
// Where everything lies and runs.
struct CostContext {
  const Machine& machine;
  std::span<const GroupSpan> spans;  // by GroupKind
  Overlaps overlaps;
  Recompute recompute;
};
// `again`: the layer's forward pass is run again before its backward pass. `trained` false: its weights' gradients are not computed.
LayerSeconds layer_seconds(const LocalLayer& layer, const ActivationSizes& sizes, const Tape& tape, const LayerVolume& volume, const CostContext& context,
                           bool again, bool trained = true);
double matrix_seconds(double flops, int64_t element, double efficiency, const Machine& machine);
// All of a volume, one after the other, less what hides behind computation.
double volume_seconds(const Volume& volume, const CostContext& context, double core_seconds = 0);

}  // namespace ponte
