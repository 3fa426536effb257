-- SPDX-License-Identifier: MIT
-- An HTTP/1.1 server: connections that stay open, chunked bodies, limits, and no patience with slow
-- clients. Each connection is a task; read it from `serve_connection` on.
--
--     lua5.4 examples/15_http_server.lua --port 8080
--     curl -i localhost:8080/        curl -d hello localhost:8080/echo
--
-- Test: --self-test

local concur = require "concur"
local net = require "concur.net"

local HEAD_LIMIT <const> = 16 * 1024 -- bytes of request line and headers
local BODY_LIMIT <const> = 1024 * 1024
local HEAD_SECONDS = tonumber(os.getenv "HTTP_SECONDS") or 10 -- for a request to come
local BODY_SECONDS = HEAD_SECONDS * 3 -- for its body
local CONNECTIONS <const> = 10000

local REASONS = {
  [200] = "OK", [204] = "No Content", [400] = "Bad Request", [404] = "Not Found",
  [405] = "Method Not Allowed", [408] = "Request Timeout", [413] = "Content Too Large",
  [431] = "Request Header Fields Too Large", [500] = "Internal Server Error",
  [501] = "Not Implemented", [505] = "HTTP Version Not Supported",
}

-- Ends the request with this status; the connection is closed after it.
local function refuse(status, text)
  error({ status = status, text = text }, 0)
end

-- Reading a request -------------------------------------------------------------------------------

local TOKEN <const> = "[%w!#$%%&'*+.^_`|~-]+"

-- The block of lines before the body, or nil when the client has gone (between two requests).
local function read_head(stream)
  local head, err = stream:read_until("\r\n\r\n", HEAD_LIMIT)
  while head == "\r\n\r\n" do -- empty lines before a request are allowed
    head, err = stream:read_until("\r\n\r\n", HEAD_LIMIT)
  end
  if head then
    return head:gsub("^[\r\n]+", "")
  elseif err and err.kind == "LimitOverrun" then
    refuse(431, "request line and headers are too long")
  end
  return nil
end

local function parse_headers(lines)
  local headers = {}
  for line in lines:gmatch "(.-)\r\n" do
    local name, value = line:match("^(" .. TOKEN .. "):[ \t]*(.-)[ \t]*$")
    if not name or value:find "[%z\r\n]" then
      refuse(400, "a bad header line")
    end
    name = name:lower()
    if headers[name] and (name == "content-length" or name == "host") then
      refuse(400, name .. " stands there twice")
    end
    headers[name] = headers[name] and headers[name] .. ", " .. value or value
  end
  return headers
end

local function parse_head(head)
  local line, rest = head:match "^(.-)\r\n(.*)\r\n$"
  local method, target, version = line:match("^(" .. TOKEN .. ") ([^%s%c]+) HTTP/(%d%.%d)$")
  if not method then
    refuse(400, "a bad request line")
  elseif version ~= "1.1" and version ~= "1.0" then
    refuse(505, "only HTTP/1.1 and 1.0")
  end
  local request = { method = method, path = target, version = version,
    headers = parse_headers(rest) }
  if version == "1.1" and not request.headers.host then
    refuse(400, "no host header")
  end
  return request
end

local function read_exactly(stream, count)
  local data = count == 0 and "" or stream:read(count)
  if not data or #data < count then
    refuse(400, "the body ended early")
  end
  return data
end

local function read_chunked(stream)
  local parts, total = {}, 0
  while true do
    local line = stream:read_until("\r\n", 256)
    local digits = line and (line:match "^(%x+)[ \t]*\r\n$" or line:match "^(%x+)[ \t]*;")
    if not digits or #digits > 12 then
      refuse(400, "a bad chunk")
    end
    local size = tonumber(digits, 16)
    total = total + size
    if total > BODY_LIMIT then
      refuse(413, "the body is too long")
    elseif size == 0 then
      break
    end
    parts[#parts + 1] = read_exactly(stream, size)
    if read_exactly(stream, 2) ~= "\r\n" then
      refuse(400, "a bad chunk")
    end
  end
  local trailers = 0
  repeat -- which nobody looks at
    local line = stream:read_until("\r\n", HEAD_LIMIT)
    trailers = trailers + #(line or "")
    if not line or trailers > HEAD_LIMIT then
      refuse(400, "bad trailers")
    end
  until line == "\r\n"
  return table.concat(parts)
end

local function read_body(stream, request)
  local length, coding = request.headers["content-length"], request.headers["transfer-encoding"]
  if not length and not coding then
    return ""
  elseif length and coding then
    refuse(400, "both content-length and transfer-encoding")
  elseif coding and coding:lower() ~= "chunked" then
    refuse(501, "only chunked is understood")
  elseif length and not length:find "^%d+$" then
    refuse(400, "a bad content-length")
  elseif length and (#length > 12 or tonumber(length) > BODY_LIMIT) then
    refuse(413, "the body is too long")
  end
  if (request.headers.expect or ""):lower() == "100-continue" then
    stream:write "HTTP/1.1 100 Continue\r\n\r\n"
  end
  return coding and read_chunked(stream) or read_exactly(stream, tonumber(length))
end

-- The next request, or nil when there is none.
local function read_request(stream)
  local in_time, head = concur.move_on_after(HEAD_SECONDS, read_head, stream)
  if not in_time then
    if stream:buffered() > 0 then
      refuse(408, "the request did not come in time")
    end
    return nil -- nothing at all: an idle connection
  elseif not head then
    return nil
  end
  local request = parse_head(head)
  in_time, request.body = concur.move_on_after(BODY_SECONDS, read_body, stream, request)
  if not in_time then
    refuse(408, "the body did not come in time")
  end
  return request
end

-- Writing a response -----------------------------------------------------------------------------

local function response_head(status, headers, keep)
  local lines = { ("HTTP/1.1 %d %s\r\n"):format(status, REASONS[status]) }
  for name, value in pairs(headers) do
    lines[#lines + 1] = ("%s: %s\r\n"):format(name, value)
  end
  lines[#lines + 1] = keep and "connection: keep-alive\r\n\r\n" or "connection: close\r\n\r\n"
  return table.concat(lines)
end

-- `body` is a string, or a function that is called for each chunk until it returns nil. False if the
-- client has gone.
local function respond(stream, request, status, body, keep, headers)
  headers = headers or {}
  headers["content-type"] = headers["content-type"] or "text/plain; charset=utf-8"
  local chunked = type(body) == "function" and request.version == "1.1"
  if type(body) == "string" then
    headers["content-length"] = #body
  elseif chunked then
    headers["transfer-encoding"] = "chunked"
  else
    keep = false -- HTTP/1.0: the end of the connection is the end of the body
  end
  if request.method == "HEAD" then
    return stream:write(response_head(status, headers, keep)) and keep
  elseif type(body) == "string" then
    return stream:write(response_head(status, headers, keep), body) and keep
  end
  local sent = stream:write(response_head(status, headers, keep))
  for chunk in body do
    if not sent then
      return false
    elseif #chunk > 0 then
      sent = chunked and stream:write(("%x\r\n"):format(#chunk), chunk, "\r\n")
        or not chunked and stream:write(chunk)
    end
  end
  return sent and (not chunked or stream:write "0\r\n\r\n") and keep
end

-- What the server does -----------------------------------------------------------------------------

local pages = {}

pages["/"] = function()
  return 200, "Hello from concur.\n"
end

pages["/echo"] = function(request)
  return 200, request.body
end

pages["/headers"] = function(request)
  local lines = {}
  for name, value in pairs(request.headers) do
    lines[#lines + 1] = name .. ": " .. value .. "\n"
  end
  table.sort(lines)
  return 200, table.concat(lines)
end

pages["/count"] = function() -- in chunks, as they come to mind
  local i = 0
  return 200, function()
    i = i + 1
    return i <= 5 and i .. "\n" or nil
  end
end

pages["/broken"] = function()
  error "this page has a bug"
end

local METHODS = { GET = true, HEAD = true, POST = true }

local function answer(stream, request)
  local wish = (request.headers.connection or ""):lower()
  local keep = request.version == "1.1" and not wish:find "close" or wish:find "keep%-alive" ~= nil
  if not METHODS[request.method] then
    return respond(stream, request, 405, "no such method here\n", keep,
      { allow = "GET, HEAD, POST" })
  end
  local page = pages[request.path:match "^[^?]*"]
  if not page then
    return respond(stream, request, 404, "no such page\n", keep)
  end
  local ok, status, body = concur.pcall(page, request)
  if not ok then
    io.stderr:write(tostring(status), "\n")
    return respond(stream, request, 500, "an error on our side\n", false)
  end
  return respond(stream, request, status, body, keep)
end

local function serve_connection(stream)
  local request
  local ok, err = concur.pcall(function()
    repeat
      request = nil
      request = read_request(stream)
    until not request or not answer(stream, request)
  end)
  if not ok then
    if type(err) ~= "table" or not err.status then
      error(err, 0)
    end
    respond(stream, request or { version = "1.1" }, err.status, err.text .. "\n", false)
    stream:shutdown() -- and let the client read it before the connection is reset
    concur.move_on_after(1, function() repeat until not stream:read_some() end)
  end
end

-- The program ------------------------------------------------------------------------------------

local function self_test(listener)
  local _, port = listener:address()
  local stream = assert(net.connect("127.0.0.1", port))
  stream:write "GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n"
  print(stream:read "a")
  stream:close()
  listener:close()
end

local port = 0
for i, word in ipairs(arg) do
  port = word == "--port" and tonumber(arg[i + 1]) or port
end

concur.main(function()
  assert(net.serve(serve_connection, "127.0.0.1", port, {
    limit = CONNECTIONS, grace = 1,
    on_listen = function(listener)
      print(("listening at http://%s:%d/"):format(listener:address()))
      io.stdout:flush()
      if arg[1] == "--self-test" then
        concur.spawn(self_test, listener)
      end
    end,
  }))
end)
