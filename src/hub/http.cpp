// libcurl behind http_request: one easy handle per hop.
#include "hub/http.h"

#include <curl/curl.h>

#include <charconv>
#include <memory>
#include <mutex>
#include <string_view>

#include "base/format.h"

namespace ponte {
namespace {

constexpr int kMaxRedirects = 8;
constexpr size_t kLongestErrorBody = 4096;

struct Transfer {
  const HttpRequest& request;
  HttpResponse& response;
  CURL* curl;
  std::string location;
};

std::string trimmed(std::string_view text) {
  while (!text.empty() && (text.back() == '\r' || text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  return std::string(text);
}

std::string plain_etag(std::string value) {
  if (value.starts_with("W/")) value.erase(0, 2);
  if (value.size() >= 2 && value.front() == '"' && value.back() == '"') value = value.substr(1, value.size() - 2);
  return value;
}

std::optional<uint64_t> number(std::string_view text) {
  uint64_t out = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return out;
}

size_t on_header(char* data, size_t size, size_t count, void* user) {
  Transfer& t = *static_cast<Transfer*>(user);
  const std::string_view line(data, size * count);
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return size * count;
  const std::string name = lower(line.substr(0, colon)), value = trimmed(line.substr(colon + 1));
  HttpResponse& r = t.response;
  if (name == "location") t.location = value;
  if (name == "x-repo-commit") r.commit = value;
  if (name == "x-error-code") r.code = value;
  if (name == "x-linked-etag") r.etag = plain_etag(value);
  if (name == "etag" && r.etag.empty()) r.etag = plain_etag(value);
  if (name == "x-linked-size") r.size = number(value);
  return size * count;
}

size_t on_body(char* data, size_t size, size_t count, void* user) {
  Transfer& t = *static_cast<Transfer*>(user);
  const size_t bytes = size * count;
  long status = 0;
  curl_easy_getinfo(t.curl, CURLINFO_RESPONSE_CODE, &status);
  if (status >= 300 && status < 400) return bytes;  // the body of a redirect
  const bool success = status == 200 || status == 206;
  if (success && t.request.sink) {
    if (t.request.sink(static_cast<int>(status), std::as_bytes(std::span(data, bytes)))) return bytes;
    t.response.stopped = true;
    return 0;
  }
  const uint64_t room = success ? t.request.longest_body : kLongestErrorBody;
  if (t.response.body.size() + bytes <= room) t.response.body.append(data, bytes);
  else if (success) return 0;
  return bytes;
}

// scheme://host:port in lower case; "" when the address cannot be read.
std::string authority(const std::string& url) {
  const std::unique_ptr<CURLU, decltype(&curl_url_cleanup)> parts(curl_url(), &curl_url_cleanup);
  if (curl_url_set(parts.get(), CURLUPART_URL, url.c_str(), 0) != CURLUE_OK) return "";
  std::string out;
  for (CURLUPart part : {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT}) {
    char* text = nullptr;
    if (curl_url_get(parts.get(), part, &text, CURLU_DEFAULT_PORT) == CURLUE_OK) out += lower(text) + "|";
    curl_free(text);
  }
  return out;
}

std::string absolute(const std::string& base, const std::string& location) {
  const std::unique_ptr<CURLU, decltype(&curl_url_cleanup)> parts(curl_url(), &curl_url_cleanup);
  if (curl_url_set(parts.get(), CURLUPART_URL, base.c_str(), 0) != CURLUE_OK) return "";
  if (curl_url_set(parts.get(), CURLUPART_URL, location.c_str(), 0) != CURLUE_OK) return "";
  char* text = nullptr;
  if (curl_url_get(parts.get(), CURLUPART_URL, &text, 0) != CURLUE_OK) return "";
  std::string out = text;
  curl_free(text);
  return out;
}

void set_options(CURL* curl, Transfer& transfer, const std::string& url) {
  const HttpRequest& request = transfer.request;
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_NOBODY, request.head ? 1L : 0L);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 15L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);  // a connection that stands still for a minute is lost
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, 60L);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "ponte");
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, &on_header);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &on_body);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &transfer);
  if (request.from > 0) curl_easy_setopt(curl, CURLOPT_RANGE, (std::to_string(request.from) + "-").c_str());
}

// One hop. Returns where a redirect leads, or "".
std::string perform(const HttpRequest& request, HttpResponse& response, const std::string& url, bool with_token) {
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl(curl_easy_init(), &curl_easy_cleanup);
  Transfer transfer{request, response, curl.get(), ""};
  set_options(curl.get(), transfer, url);
  std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(nullptr, &curl_slist_free_all);
  if (with_token && !request.token.empty()) headers.reset(curl_slist_append(nullptr, ("Authorization: Bearer " + request.token).c_str()));
  curl_easy_setopt(curl.get(), CURLOPT_HTTPHEADER, headers.get());
  const CURLcode result = curl_easy_perform(curl.get());
  long status = 0;
  curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &status);
  response.status = static_cast<int>(status);
  if (result != CURLE_OK) response.error = response.stopped ? "stopped" : curl_easy_strerror(result);
  response.unreachable = result == CURLE_COULDNT_RESOLVE_HOST || result == CURLE_COULDNT_CONNECT || result == CURLE_COULDNT_RESOLVE_PROXY;
  response.hopeless = result == CURLE_URL_MALFORMAT || result == CURLE_UNSUPPORTED_PROTOCOL || result == CURLE_PEER_FAILED_VERIFICATION;
  curl_off_t length = -1;
  curl_easy_getinfo(curl.get(), CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
  if (!response.size && length >= 0 && status == 200) response.size = static_cast<uint64_t>(length);
  const bool redirect = status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
  return redirect && result == CURLE_OK ? absolute(url, transfer.location) : "";
}

}  // namespace

HttpResponse http_request(const HttpRequest& request) {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  const std::string home = authority(request.url);
  std::string url = request.url;
  HttpResponse response;
  for (int hop = 0; hop <= kMaxRedirects; ++hop) {
    response.error.clear();
    const std::string next = perform(request, response, url, authority(url) == home);
    if (next.empty()) return response;
    url = next;
  }
  response.status = 0;
  response.hopeless = true;
  response.error = format("more than {} redirects", kMaxRedirects);
  return response;
}

std::string url_path(const std::string& path) {
  std::string out;
  for (char c : path) {
    const bool plain = isalnum(static_cast<unsigned char>(c)) || std::string_view("-._~/").find(c) != std::string_view::npos;
    out += plain ? std::string(1, c) : format("%{:02X}", static_cast<unsigned>(static_cast<unsigned char>(c)));
  }
  return out;
}

}  // namespace ponte
