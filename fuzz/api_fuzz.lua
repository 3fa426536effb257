-- SPDX-License-Identifier: MIT
-- Random calls of the public API, in every place that code can run in.
--
--   lua fuzz/api_fuzz.lua [--seconds N] [--seed N] [--programs N] [--verbose] [--network]
--
-- No Lua program, however wrong, may crash the process or hang it for good.  Each program has a seed
-- of its own, printed before it starts: `--seed N --programs 1` runs just that one again.  It makes
-- objects, calls their methods with fitting or with absurd arguments, from tasks, callbacks,
-- generators, finalizers, `<close>` variables, metamethods, comparators, hooks and coroutines of its
-- own, and does to the coroutines of tasks what nobody should.  Errors are expected; the only thing
-- checked is that the process lives.  So it is worth most under AddressSanitizer.
local concur = require "concur"
local core = require "concur.core"
local errors = require "concur.errors"

local options = { seconds = 2, seed = os.time(), programs = math.huge, verbose = false,
  network = false }
do
  local i = 1
  while arg[i] do
    local name = arg[i]:match "^%-%-(%a+)$"
    if name == "verbose" or name == "network" then
      options[name] = true
    elseif name and options[name] and tonumber(arg[i + 1]) then
      i = i + 1
      options[name] = math.tointeger(tonumber(arg[i])) or tonumber(arg[i])
    else
      error("unknown argument: " .. arg[i], 0)
    end
    i = i + 1
  end
end

local random = math.random
local seed      -- of the program that runs
local budget    -- calls that this program may still make
local bag       -- values that its calls may use
local opened    -- weak: objects of its, that might have to be closed
local threads   -- coroutines it came across, its own and those of tasks
local depth = 0 -- of calls inside each other

-- Objects of one program are forgotten now and then, so that the collector has something to do.
local function keep(value)
  if value ~= nil then bag[random(40)] = value end
  if type(value) == "userdata" then opened[value] = true end
end

local act -- does something; below
local end_waits -- ends waits that nothing else ends; below

local function acts(limit)
  for _ = 1, random(0, limit) do act() end
end

-- A function that does random things, then returns, raises or yields something.
local function body()
  local count, ending = random(0, 4), random(12)
  return function(...)
    local thread, is_main = coroutine.running()
    if not is_main then threads[random(12)] = thread end
    if random(4) == 1 then keep((...)) end
    local close = { __close = function() acts(2) end }
    local _ <close> = random(6) == 1 and setmetatable({}, close) or nil
    for _ = 1, count do act() end
    if ending == 1 then error { "an error" } end
    if ending == 2 then error() end
    if ending == 3 then error(bag[random(40)]) end
    if ending == 4 and coroutine.isyieldable() then return coroutine.yield(...) end
    if ending == 5 then return end
    return bag[random(40)], ...
  end
end

-- A message handler.  One that raises while it has a `<close>` variable which raises as well runs for
-- ever in Lua's own xpcall (5.4.4), so these raise nothing.
local function handler()
  local run = body()
  return function(...)
    return select(2, pcall(run, ...))
  end
end

local foreign = assert(io.tmpfile()) -- a userdata of somebody else's

local function refuse() error "a metamethod refuses" end

local absurd = {
  function() return nil end,
  function() return 0 / 0 end,
  function() return math.huge end,
  function() return -1 end,
  function() return 1e300 end,
  function() return math.mininteger end,
  function() return "text" end,
  function() return {} end,
  function() return { body(), body(), k = body() } end,
  function()
    return setmetatable({}, {
      __index = refuse, __len = refuse, __pairs = refuse, __tostring = refuse,
    })
  end,
  function()
    local text = function() acts(2) return "t" end
    return setmetatable({}, { __call = body(), __tostring = text })
  end,
  function() return setmetatable({}, { __lt = function() acts(2) return random(2) == 1 end }) end,
  function() return setmetatable({}, { __gc = function() acts(2) end }) end,
  function() return setmetatable({}, { __await = body() }) end,
  function() local t = {} t[1] = t return t end,
  function() return foreign end,
  function() return select end,
  function() return true end,
  function() return coroutine.create(body()) end,
  function() return errors.new("Cancelled", "made by hand") end,
}

local function any()
  local kind = random(10)
  if kind <= 6 then return bag[random(40)] end
  if kind <= 8 then return body() end
  return absurd[random(#absurd)]()
end

local function seconds()
  local kind = random(8)
  if kind == 1 then return any() end
  if kind <= 4 then return 0 end
  return random() * 3
end

local function list()
  local made = {}
  for i = 1, random(0, 5) do
    made[random(5) == 1 and "key" .. i or i] = any()
  end
  return made
end

local function arms()
  local made = {}
  for i = 1, random(3) do
    local value = any()
    local ok, arm = pcall(function()
      local kind = random(5)
      if kind == 1 then return value:getting() end
      if kind == 2 then return value:putting(i) end
      if kind == 3 then return value:waiting() end
      if kind == 4 then return concur.after(seconds()) end
      return value
    end)
    made[i] = ok and arm or value
    keep(made[i])
  end
  return made
end

-- name -> makes fitting arguments; absent: `any` so many times as chance will have it.
local arguments = {
  spawn = function() return body(), any() end,
  async = function() return body() end,
  sleep = function() return seconds(), any() end,
  timeout = function() return seconds(), body(), any() end,
  timeout_at = function() return concur.now() + random(), body() end,
  move_on_after = function() return seconds(), body(), any() end,
  move_on_at = function() return concur.now() + random(), body() end,
  cancel_scope = function()
    local scope = { shield = random(2) == 1, deadline = concur.now() + random() }
    return body(), random(2) == 1 and scope or nil
  end,
  shield = function() return body(), any() end,
  task_group = function() return body(), any() end,
  gather = function() return table.unpack(list()) end,
  settle = function() return list() end,
  race = function() return body(), any() end,
  any = function() return any(), body() end,
  wait = function() return list(), { timeout = seconds() } end,
  as_completed = function() return list() end,
  select = function() return arms() end,
  after = function() return seconds() end,
  suspend = function()
    return function(resume, fail)
      keep(resume)
      keep(fail)
      acts(1)
      return random(2) == 1 and body() or nil
    end
  end,
  wrap = function() return body() end,
  pcall = function() return body(), any() end,
  xpcall = function() return body(), handler(), any() end,
  Queue = function() return random(0, 2) end,
  LifoQueue = function() return random(0, 2) end,
  PriorityQueue = function() return random(0, 2) end,
  Semaphore = function() return random(0, 2) end,
  CapacityLimiter = function() return random(2) end,
  Barrier = function() return random(2) end,
  Channel = function() return random(0, 2) end,
  watch = function() return list() end,
  call_soon = function() return body(), any() end,
  call_later = function() return seconds(), body() end,
  call_at = function() return concur.now() + random(), body() end,
  step = function() return 0 end,
}

local function some_arguments()
  local count = random(0, 3)
  if count == 0 then return end
  if count == 1 then return any() end
  if count == 2 then return any(), any() end
  return any(), any(), any()
end

local functions = {
  "spawn", "spawn", "spawn", "spawn", "async", "await", "await", "Future", "Future",
  "current_task", "all_tasks", "sleep", "sleep", "checkpoint", "sleep_forever", "suspend", "now",
  "gather", "settle", "race", "any", "task_group", "timeout", "timeout_at", "move_on_after",
  "move_on_at", "cancel_scope", "shield", "current_scope", "effective_deadline", "pcall",
  "xpcall", "ContextVar", "wrap", "wrap", "select", "select", "after", "Lock", "Event",
  "Semaphore", "Queue", "LifoQueue", "PriorityQueue", "wait", "as_completed", "Condition",
  "CapacityLimiter", "Barrier", "run", "Channel",
}

-- Of the core; what concur's own Lua code calls is reachable for everybody.
local core_functions = {
  "watch", "rethrow", "first_traceback", "traceback_handler", "report", "call_soon", "call_soon",
  "call_later", "call_later", "call_at", "run_forever", "stop", "stop", "step", "next_timeout",
  "fd", "is_running", "close", "counters", "switches", "shuffle", "checkpoint_if_cancelled",
  "ParkingLot", "wait_until_idle", "use_clock", "Clock",
}

local methods = {
  "result", "result", "state", "done", "cancelled", "exception", "cancel", "cancel",
  "add_done_callback", "set_result", "set_exception", "name", "set_name", "traceback",
  "awaiting", "kill", "kill", "spawn", "spawn", "start", "deadline", "shield", "cancel_called",
  "cancelled_caught", "get", "set", "with", "acquire", "acquire", "try_acquire", "release",
  "locked", "held", "owner", "waiters", "wait", "clear", "is_set", "value", "put", "put",
  "try_put", "get", "try_get", "iter", "task_done", "join", "close", "closed", "size", "maxsize",
  "full", "empty", "getting", "putting", "waiting", "notify", "notify_all", "wait_for",
  "borrowed", "available", "total", "next", "left", "park", "unpark", "send", "recv", "try_send",
  "try_recv",
}

-- ---- streams, sockets, processes, signals ----

local WORDS = { "l", "L", "n", "a", "*l", 0, 1, 5, 70000 }
local SIGNALS = { "SIGWINCH", "SIGCONT" } -- they end nothing when nobody takes them
local COMMANDS = { { "true" }, { "cat" }, { "sleep", "9" }, { "sh", "-c", "echo a; echo b >&2" } }

local function text()
  local size = random(4) == 1 and 100000 or 8
  return string.rep(random(2) == 1 and "7 \n" or "ab", random(0, size))
end

local function formats()
  if random(3) == 1 then return end
  return WORDS[random(#WORDS)], random(3) == 1 and WORDS[random(#WORDS)] or nil
end

-- The address of something that was made here, or of nothing.
local function address()
  local object = bag[random(40)]
  local ok, host, port = pcall(function() return object:address() end)
  if ok and type(port) == "number" then return host, port end
  if random(8) == 1 then return "localhost", 9 end
  return "127.0.0.1", 9
end

local function command()
  local made = { grace = random(3) == 1 and 0 or nil, input = random(3) == 1 and text() or nil }
  for i, word in ipairs(COMMANDS[random(#COMMANDS)]) do made[i] = word end
  return made
end

local io_arguments = {
  read = formats,
  lines = formats,
  read_some = function() return random(2) == 1 and random(100) or nil end,
  read_until = function()
    return ("ba"):rep(random(1, 40)) .. random(9), random(2) == 1 and 90 or nil
  end,
  read_into = function() return any(), random(3) end,
  write = function() return text(), random(3) == 1 and random() or nil end,
  setvbuf = function() return random(2) == 1 and "no" or "full" end,
  water_marks = function() return { read_high = random(100), write_high = random(100) } end,
  limit = function() return random(3) == 1 and random(200) or nil end,
  close = function() return random(3) > 1 and 0 or random() / 10 end,
  send_to = function() return text():sub(1, 900), address() end,
  connect = address,
  recv_from = function() return random(0, 100) end,
}

local io_methods = {
  "read", "read", "lines", "read_some", "read_until", "read_until", "read_into", "write", "write",
  "write", "flush", "shutdown", "setvbuf", "water_marks", "limit", "buffered", "close", "closed",
  "detach", "fd", "peer_address", "local_address", "nodelay", "keepalive", "accept", "accept",
  "address", "send_to", "send_to", "send", "connect", "recv_from", "recv_from", "receiving",
  "set", "join", "leave", "wait", "waiting", "status", "kill", "pid",
}

local makers = {
  function()
    local one, other = concur.net.socketpair()
    keep(one)
    return other
  end,
  function() return concur.net.listen("127.0.0.1", 0, { backlog = 2 }) end,
  function() return concur.net.connect(address()) end,
  function()
    return concur.net.connect("name", 9, { attempt_delay = random() / 50, resolver = function()
      local found = {}
      for i = 1, random(3) do
        local host, port = address()
        found[i] = { address = host == "localhost" and "127.0.0.1" or host, port = port,
          family = random(2) == 1 and "inet" or "inet6" }
      end
      acts(1)
      return found
    end })
  end,
  function() return concur.net.udp("127.0.0.1", 0) end,
  function() return concur.net.wait_fd(any(), ({ "r", "w", "rw" })[random(3)], random() / 10) end,
  function() return concur.net.wait_fd(any():fd()) end,
  function()
    return concur.dns.resolve(({ "localhost", "127.0.0.1", "::1", "a.invalid." })[random(4)])
  end,
  function() return concur.dns.reverse "127.0.0.1" end,
  function()
    return concur.net.serve(body(), "127.0.0.1", 0, { limit = random(2), grace = 0,
      on_listen = function(listener)
        keep(listener)
        acts(1)
      end, on_error = body() })
  end,
  function() return (concur.signal.receive(SIGNALS[random(2)])) end,
  function() return concur.signal.receive(SIGNALS[1], SIGNALS[2]) end,
  function()
    local name = SIGNALS[random(2)]
    local receiver <close> = concur.signal.receive(name)
    concur.signal.raise(name)
    return receiver()
  end,
  function() return any():receiving() end,
  function() return any():waiting() end,
  function() return random(4) == 1 and concur.process.spawn(command()) or nil end,
  function() return random(4) == 1 and concur.process.run(command()) or nil end,
  function()
    local socket = require "concur.compat.socket"
    local client = socket.tcp()
    client:settimeout(random() / 10)
    client:connect(address())
    return client
  end,
  function() return concur.SharedBuffer and concur.SharedBuffer(random(50)) end,
}

local function call_maker()
  keep(makers[random(#makers)]())
end

local function call_io()
  local object = any()
  local name = io_methods[random(#io_methods)]
  local make = random(8) > 1 and io_arguments[name] or some_arguments
  -- No signal but TERM, no descriptor of a stranger.
  if name == "kill" then return keep(object[name](object)) end
  local result = object[name](object, make())
  if name == "detach" and math.type(result) == "integer" then
    result = concur.net.from_fd(result)
  end
  keep(result)
end

local metamethods = { "__gc", "__close", "__tostring", "__call", "__index", "__concat", "__eq" }

local function call_function()
  local name = functions[random(#functions)]
  local make = random(5) > 1 and arguments[name] or some_arguments
  keep(concur[name](make()))
end

local function call_core()
  local name = core_functions[random(#core_functions)]
  local make = random(5) > 1 and arguments[name] or some_arguments
  keep(core[name](make()))
end

local function call_method()
  local object = any()
  local name = methods[random(#methods)]
  keep(object[name](object, some_arguments()))
end

local function call_value()
  keep(any()(some_arguments()))
end

local function call_metamethod()
  local meta = debug.getmetatable(any())
  local name = metamethods[random(#metamethods)]
  keep(meta[name](some_arguments()))
end

-- A method taken from one object, called with another.
local function call_wrong_self()
  any()[methods[random(#methods)]](some_arguments())
end

-- What nobody should do to a coroutine.
local function abuse_thread()
  local thread = threads[random(12)]
  local kind = random(7)
  if kind == 1 then
    coroutine.close(thread)
  elseif kind <= 3 then
    coroutine.resume(thread, some_arguments())
  elseif kind == 4 then
    debug.sethook(thread, function() if budget > 0 then acts(1) end end, "", random(20))
  elseif kind == 5 then
    debug.sethook(thread)
  elseif kind == 6 then
    debug.traceback(thread)
  else
    threads[random(12)] = nil
  end
end

-- Waits in places that cannot be suspended.
local function odd_place()
  local kind = random(7)
  if kind == 1 then
    table.sort({ 3, 1, 2 }, function(a, b) acts(1) return a < b end)
  elseif kind == 2 then
    string.gsub("abc", "%w", function() acts(1) end)
  elseif kind == 3 then
    xpcall(error, function() pcall(acts, 1) end)
  elseif kind == 4 then
    tostring(setmetatable({}, { __tostring = function() acts(1) return "t" end }))
  elseif kind == 5 then
    setmetatable({}, { __gc = function() acts(2) end })
  elseif kind == 6 then
    local thread = coroutine.create(body())
    threads[random(12)] = thread
    coroutine.resume(thread)
  else
    collectgarbage "step"
  end
end

local kinds = {
  call_function, call_function, call_function, call_function, call_method, call_method, call_method,
  call_method, call_method, call_method, call_value, call_core, call_metamethod, call_wrong_self,
  abuse_thread, odd_place,
}

-- Streams, sockets, processes and signals: some programs of these only end by force.
if options.network then
  for _ = 1, 4 do kinds[#kinds + 1] = call_io end
  for _ = 1, 2 do kinds[#kinds + 1] = call_maker end
end

-- Has a finalizer run at the next allocation, in the middle of whatever comes next.
local function interrupt()
  local run = function() acts(3) end
  collectgarbage()
  collectgarbage "generational"
  collectgarbage "stop"
  setmetatable({}, { __gc = run })
  collectgarbage "restart"
end

function act()
  if budget <= 0 or depth >= 30 then return end
  budget = budget - 1
  depth = depth + 1
  pcall(end_waits, seed) -- the loop may have been closed since, and a new one made
  local kind = kinds[random(#kinds)]
  if random(40) == 1 then interrupt() end
  -- Not always protected: errors must find their way through everything.
  if random(5) == 1 then
    kind()
  else
    pcall(kind)
  end
  depth = depth - 1
end

local collectors = {
  function() collectgarbage("incremental", 200, 100) end,
  function() collectgarbage("incremental", 1, 1000, 1) end,
  function() collectgarbage "generational" end,
}

-- Something of everything, so that calls find what they fit.
local function furnish()
  local made = {
    concur.Future(), concur.Queue(1), concur.Queue(), concur.PriorityQueue(), concur.Lock(),
    concur.Event(), concur.Semaphore(1), concur.Condition(), concur.Barrier(2),
    concur.CapacityLimiter(1), concur.ContextVar(1), concur.wrap(body()), concur.after(1),
    core.ParkingLot(), core.watch {}, concur.Channel(1), concur.async(body()),
  }
  for i, value in ipairs(made) do bag[i * 2] = value end
  if not options.network then return end
  local one, other = concur.net.socketpair()
  bag[35], bag[36] = one, other
  bag[37] = concur.net.listen("127.0.0.1", 0)
  bag[38] = concur.net.udp("127.0.0.1", 0)
  bag[39] = concur.signal.receive "SIGCONT"
  for i = 35, 39 do opened[bag[i]] = true end
end

-- Ends what waits for the network: nothing may come from there any more, and that is no deadlock.
local striker
function end_waits(program_seed)
  if not options.network then return end
  if striker then pcall(striker.cancel, striker) end
  local strikes = 0
  local function strike()
    strikes = strikes + 1
    if seed ~= program_seed or strikes > 100 then return end
    for _, task in ipairs(concur.all_tasks()) do pcall(task.kill, task) end
    for object in pairs(opened) do pcall(function() object:close(0) end) end
    if strikes > 20 then pcall(core.stop) end -- the top level waits for a bare descriptor
    striker = core.call_later(0.05, strike)
  end
  striker = core.call_later(0.2, strike)
end

-- The main function of a run: works until nothing is left to do.
local function main()
  end_waits(seed)
  for _ = 1, random(8) do keep(concur.spawn(body())) end
  for _ = 1, random(30) do act() end
  if options.network and random(2) == 1 then concur.sleep(0.3) end
end

-- A run whose tasks are ended by force at its end: one that is shielded may wait for the network.
local function whole_run()
  if not options.network then return main() end
  local _ <close> = setmetatable({}, { __close = function()
    budget = 0
    for _, task in ipairs(concur.all_tasks()) do
      if task ~= concur.current_task() then pcall(task.kill, task) end
    end
  end })
  main()
end

local function program(its_seed)
  seed = its_seed
  math.randomseed(seed)
  collectors[random(#collectors)]()
  budget, bag, threads, depth = 300, {}, {}, 0
  opened = setmetatable({}, { __mode = "k" })
  local arm = rawget(_G, "arm")
  if arm then arm() end -- in the test host: from here on memory may run short
  -- No concur object that an error message shows may print itself to the terminal.
  core.set_on_error(random(3) == 1 and function() acts(1) end or function() end)
  if random(8) == 1 then pcall(core.shuffle, seed) end
  furnish()
  for _ = 1, random(3) do
    local is_run = random(4) > 1
    if not (options.network and is_run and random(2) == 1) then
      pcall(core.use_clock, core.Clock()) -- nobody really sleeps
    end
    budget = 300
    if is_run then
      pcall(concur.run, whole_run)
    else
      pcall(end_waits, seed)
      pcall(acts, 20)
      pcall(core.close)
    end
    depth = 0
  end
  budget = 0
  debug.sethook()
  bag, threads = {}, {}
  -- What is left must end: a task that refuses is ended by force.
  pcall(core.close)
  if random(4) == 1 then collectgarbage() end
end

io.stdout:setvbuf "no"
local start, count = os.time(), 0
while count < options.programs and os.time() - start < options.seconds do
  local next_seed = options.seed + count
  if options.verbose then print(os.time() - start, "seed " .. next_seed) end -- the last line says which one died
  program(next_seed)
  count = count + 1
end
print(("%d programs, seeds %d to %d"):format(count, options.seed, options.seed + count - 1))
