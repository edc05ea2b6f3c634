// One HTTP request with libcurl: redirects are followed here, so that the token goes to the host it was given for and to no other.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

namespace ponte {

struct HttpRequest {
  std::string url;
  std::string token;                // Authorization: Bearer; dropped when a redirect leaves scheme, host and port
  bool head = false;                // ask for the headers only
  uint64_t from = 0;                // resume: Range: bytes=<from>-
  uint64_t longest_body = 64 << 20; // of a body collected in memory
  // Pieces of the body of a 200 or 206, with that status; false stops the transfer (error `stopped`). Unset: the body is collected.
  std::function<bool(int status, std::span<const std::byte>)> sink;
};

struct HttpResponse {
  int status = 0;       // 0: no answer; `error` says why
  std::string body;     // of any answer that is not streamed; errors are cut at 4 kB
  std::string etag;     // X-Linked-Etag or ETag, without quotes and W/
  std::string commit;   // X-Repo-Commit
  std::string code;     // X-Error-Code
  std::optional<uint64_t> size;  // X-Linked-Size or Content-Length of the whole file
  std::string error;
  bool stopped = false;      // by the sink
  bool unreachable = false;  // no connection came about
  bool hopeless = false;     // trying again changes nothing
};

// Never throws for what the network does; at most 8 redirects.
HttpResponse http_request(const HttpRequest& request);

// Path segments escaped, slashes kept.
std::string url_path(const std::string& path);

}  // namespace ponte
