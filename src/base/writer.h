// Who is writing: a tag in the names of temporary files and folders, from which another process can tell whether their writer still lives.
#pragma once
#include <string>
#include <string_view>

namespace ponte {

// "1f2e3d4c-4711-98765": the running kernel and process-id namespace (hashed), the process, and when it started.
std::string writer_tag();
bool is_writer_tag(std::string_view text);
// unknown: a writer of another machine, container or restart, or no tag at all.
enum class WriterState { alive, gone, unknown };
WriterState writer_state(std::string_view tag);

}  // namespace ponte
