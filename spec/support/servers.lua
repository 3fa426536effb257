-- SPDX-License-Identifier: MIT
-- Real servers for specs: a Redis and an nginx of their own, on free ports of 127.0.0.1, with all
-- their files in a temporary directory. The system's instances are never touched.

local net = require "concur.net"
local support = require "spec.support"

local servers = {}

-- A new directory, which the server's `close` removes: it may outlive a spec.
local function new_directory()
  local path = os.tmpname()
  os.remove(path)
  assert(os.execute("mkdir -p " .. support.quote(path)))
  return path
end

-- A port that nobody listens at just now.
local function free_port()
  local listener = assert(net.listen("127.0.0.1", 0))
  local _, port = listener:address()
  listener:close()
  return port
end

local function answers(port)
  local stream = net.connect("127.0.0.1", port)
  if stream then
    stream:close()
  end
  return stream ~= nil
end

-- Starts a program that does not go to the background; returns its id.
local function start(argv, log)
  local words = {}
  for i, word in ipairs(argv) do
    words[i] = support.quote(word)
  end
  local pipe <close> = assert(io.popen(("exec 3>&- %s >%s 2>&1 </dev/null & echo $!"):format(
    table.concat(words, " "), support.quote(log))))
  return assert(pipe:read "n")
end

local function is_alive(pid)
  return (os.execute(("kill -0 %d 2>/dev/null"):format(pid))) == true
end

-- Waits until the server answers; raises with its log when it ends before.
local function await(server, log)
  for _ = 1, 200 do
    if answers(server.port) then
      return server
    elseif not is_alive(server.pid) then
      break
    end
    os.execute "sleep 0.05"
  end
  local said = support.read_file(log)
  server:close()
  error(server.name .. " does not answer:\n" .. said, 3)
end

local Server = {}
Server.__index = Server

---Ends the server and waits until it is gone.
function Server:close()
  if not self.pid then
    return
  end
  os.execute(("kill -TERM %d 2>/dev/null"):format(self.pid))
  for attempt = 1, 100 do
    if not is_alive(self.pid) then
      break
    elseif attempt == 80 then
      os.execute(("kill -KILL %d 2>/dev/null"):format(self.pid))
    end
    os.execute "sleep 0.05"
  end
  os.execute("rm -rf " .. support.quote(self.directory))
  self.pid = nil
end

Server.__close = Server.close

---A Redis server without persistence.
---@return table server `port`, `:close()`
function servers.redis()
  local directory, port = new_directory(), free_port()
  local log = directory .. "/log"
  support.write_file(log, "")
  local pid = start({ "redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", directory,
    "--save", "", "--appendonly", "no", "--daemonize", "no", "--databases", "1" }, log)
  return await(setmetatable({ name = "redis-server", pid = pid, port = port,
    directory = directory }, Server), log)
end

local NGINX = [[
worker_processes 1;
daemon off;
pid DIR/pid;
error_log DIR/error.log warn;
events { worker_connections 256; }
http {
  access_log off;
  client_body_temp_path DIR/body;
  proxy_temp_path DIR/proxy;
  fastcgi_temp_path DIR/fastcgi;
  uwsgi_temp_path DIR/uwsgi;
  scgi_temp_path DIR/scgi;
  keepalive_timeout 5;
  server {
    listen 127.0.0.1:PORT;
    server_name localhost;
    root DIR/www;
    default_type text/plain;
    location /chunked/ { ssi on; ssi_types text/plain; }
    location /slow/ { limit_rate RATE; }
    location = /moved { return 302 /plain.txt; }
    location = /echo { return 200 "$request_method $content_length $http_x_test"; }
    location = /secret {
      auth_basic "specs";
      auth_basic_user_file DIR/users;
      alias DIR/www/plain.txt;
    }
  }
}
]]

---An nginx that serves the files of a table (path to content): /plain files, files below /chunked/
---in chunks, below /slow/ with `rate` bytes a second; /moved, /echo, /secret (user "u", password
---"p").
---@param files table<string, string>
---@param rate? integer
---@return table server `port`, `:close()`
function servers.nginx(files, rate)
  local directory, port = new_directory(), free_port()
  os.execute(("cd %s && mkdir -p www/chunked www/slow && chmod -R a+rX ."):format(directory))
  for path, content in pairs(files) do
    support.write_file(directory .. "/www/" .. path, content)
  end
  support.write_file(directory .. "/users", "u:{PLAIN}p\n")
  support.write_file(directory .. "/nginx.conf", (NGINX:gsub("DIR", directory):gsub("PORT", port)
    :gsub("RATE", rate or 100000)))
  local log = directory .. "/log"
  support.write_file(log, "")
  local argv = { "nginx", "-p", directory, "-c", directory .. "/nginx.conf" }
  local major, minor = support.execute({ "nginx", "-v" }).stderr:match "nginx/(%d+)%.(%d+)"
  if tonumber(major) > 1 or tonumber(minor) >= 20 then -- older ones know no other place for it
    table.move({ "-e", directory .. "/error.log" }, 1, 2, #argv + 1, argv)
  end
  local pid = start(argv, log)
  return await(setmetatable({ name = "nginx", pid = pid, port = port,
    directory = directory }, Server), log)
end

---A program of examples/ that prints "listening at ...:PORT".
---@param path string
---@param env? table<string, string>
---@return table server `port`, `:log()`, `:close()`
function servers.example(path, env)
  local directory = new_directory()
  local log = directory .. "/log"
  local argv = { "env", "LUA_PATH=" .. support.root .. "/lua/?.lua;" .. support.root ..
    "/lua/?/init.lua;;", "LUA_CPATH=" .. support.build .. "/?.so;;" }
  for name, value in pairs(env or {}) do
    argv[#argv + 1] = name .. "=" .. value
  end
  argv[#argv + 1] = support.lua
  argv[#argv + 1] = support.root .. "/" .. path
  support.write_file(log, "")
  local pid = start(argv, log)
  local server = setmetatable({ name = path, directory = directory, pid = pid }, Server)
  function server.log()
    return support.read_file(log)
  end
  for _ = 1, 200 do
    server.port = math.tointeger(tonumber(server.log():match "listening at .-:(%d+)"))
    if server.port then
      return server
    end
    os.execute "sleep 0.05"
  end
  local said = server.log()
  server:close()
  error(path .. " does not listen:\n" .. said, 2)
end

return servers
