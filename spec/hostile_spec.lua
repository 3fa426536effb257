-- SPDX-License-Identifier: MIT
-- Lua that tries to break the module: wrong selves, swapped metatables, metamethods and callbacks
-- that raise, re-enter or close what calls them, objects that come back from the dead. The answer is
-- an error or a correct result, never a crash; and the loop is usable afterwards.
--
-- Everything runs in child interpreters: a crash is a failure of one spec.

local support = require "spec.support"

-- What the programs below share.
local PRELUDE = [[
  local concur = require "concur"
  local errors = concur.errors
  local testing = concur.testing
  local capi = require "capi_probe" -- the C API, as a module of others uses it

  -- An object of each class, by name. Some are done, closed or waited for.
  local function zoo()
    local done, failed = concur.Future(), concur.Future()
    done:set_result(1)
    failed:set_exception "failed"
    pcall(failed.result, failed)
    local channel, queue = concur.Channel(1), concur.Queue(1)
    local animals = {
      future = concur.Future(), done = done, failed = failed,
      task = concur.spawn(concur.sleep_forever), ended = concur.spawn(type, 1),
      lock = concur.Lock(), event = concur.Event(), semaphore = concur.Semaphore(1),
      condition = concur.Condition(), limiter = concur.CapacityLimiter(1),
      barrier = concur.Barrier(2), queue = queue, lifo = concur.LifoQueue(),
      priority = concur.PriorityQueue(), channel = channel, buffer = concur.SharedBuffer(8),
      pool = concur.ThreadPoolExecutor(1), var = concur.ContextVar(1), clock = testing.Clock(),
      loop = concur.get_event_loop(), runner = concur.Runner {},
      after = concur.after(1), getting = queue:getting(), putting = queue:putting(2),
      receiving = channel:receiving(), sending = channel:sending(1),
      timer = concur.get_event_loop():call_later(1000, print), generator = concur.wrap(type),
      error = select(2, pcall(concur.Queue, {})),
      listener = assert(concur.net.listen("127.0.0.1", 0)), udp = assert(concur.net.udp()),
      signals = concur.signal.receive "SIGWINCH", processes = concur.ProcessPoolExecutor(1),
      child = assert(concur.process.spawn { "sleep", "60", stdout = "pipe" }),
      promise = (capi.future()),
    }
    animals.stream, animals.peer = concur.net.socketpair()
    animals.closed = concur.net.socketpair()
    animals.closed:close()
    animals.output = animals.child.stdout
    animals.mapped = animals.pool:map(type, { 1, 2 })
    concur.cancel_scope(function(scope)
      animals.scope = scope
    end)
    pcall(concur.task_group, function(group)
      animals.group = group
    end)
    return animals
  end

  -- name -> function, for everything that may be called on an object
  local function methods_of(object)
    local methods, meta = {}, debug.getmetatable(object) or {}
    for name, value in pairs(meta) do
      if type(value) == "function" then methods[name] = value end
    end
    for _, source in ipairs { meta.__index, object } do
      if type(source) == "table" then
        for name, value in pairs(source) do
          if type(value) == "function" then methods[name] = value end
        end
      end
    end
    return methods
  end

  -- Those would end the program, or wait for ever, or ask a person.
  local DANGEROUS = { run_forever = true, __gc = true }

  -- Calls every method with these arguments, in a time limit, and forgets what comes of it.
  local function poke(object, ...)
    for name, method in pairs(methods_of(object)) do
      if not DANGEROUS[name] then
        pcall(concur.timeout, 0, method, ...)
      end
    end
  end

  local function check()
    assert(concur.run(function()
      concur.sleep(0.001)
      return concur.gather(function() return 7 end) + concur.to_thread(math.abs, -1)
    end) == 8)
  end
]]

-- Asking for too much memory is an error here as everywhere.
local function sanitizers(more)
  local env = {}
  for _, name in ipairs { "ASAN_OPTIONS", "TSAN_OPTIONS" } do
    env[name] = ("%s:allocator_may_return_null=1:%s"):format(os.getenv(name) or "", more or "")
  end
  return env
end

---Runs a program, which ends by checking that the loop works.
local function survives(code)
  local result = support.run_lua(PRELUDE .. code .. "\ncheck() print 'alive'", {
    timeout = 30,
    env = sanitizers(),
  })
  assert.equal(0, result.code, support.describe(result))
  assert.matches("alive\n$", result.stdout)
end

local function attack(name, code)
  it(name, function()
    survives(code)
  end)
end

describe("hostile Lua does not crash", function()
  attack("methods called on wrong objects", [[
    local animals = zoo()
    local wrong = { 1, "text", true, print, {}, coroutine.create(print), io.stdout,
      setmetatable({}, { __name = "concur.Task", __index = error }) }
    for _, animal in pairs(animals) do wrong[#wrong + 1] = animal end
    for kind, animal in pairs(animals) do
      for name, method in pairs(methods_of(animal)) do
        if not DANGEROUS[name] then
          pcall(concur.timeout, 0, method)
          for _, self in ipairs(wrong) do
            if debug.getmetatable(self) ~= debug.getmetatable(animal) then
              pcall(concur.timeout, 0, method, self, self, self)
            end
          end
        end
      end
    end
  ]])

  attack("user values that were taken away", [[
    local kinds = {}
    for kind in pairs(zoo()) do kinds[#kinds + 1] = kind end
    table.sort(kinds)
    for _, junk in ipairs { false, 1, "text", {}, print } do
      for _, signaled in ipairs { false, true } do
        local animals = zoo()
        for _, kind in ipairs(kinds) do
          local animal = animals[kind]
          animals[kind] = nil
          if signaled then pcall(poke, animal) end -- it may be closed, then
          for n = 1, type(animal) == "userdata" and 9 or 0 do
            local below = debug.getuservalue(animal, n)
            debug.setuservalue(animal, junk or nil, n)
            for m = 1, type(below) == "userdata" and signaled and 9 or 0 do
              debug.setuservalue(below, junk or nil, m)
            end
          end
          if kind == "signals" then concur.signal.raise "SIGWINCH" end
          pcall(concur.sleep, 0.001)
          collectgarbage()
          collectgarbage()
          poke(animal)
          poke(animal, 1, 2)
          poke(animal, print)
          pcall(concur.timeout, 0, concur.select, { animal })
        end
      end
    end
  ]])

  attack("metatables that were swapped", [[
    local names = {}
    for name in pairs(zoo()) do names[#names + 1] = name end
    for round = 1, 60 do
      local animals = zoo()
      local a, b = names[math.random(#names)], names[math.random(#names)]
      local x, y = animals[a], animals[b]
      local mx, my = debug.getmetatable(x), debug.getmetatable(y)
      if type(x) == "userdata" and type(y) == "userdata" then
        debug.setmetatable(x, my)
        debug.setmetatable(y, mx)
        poke(x, x) poke(y, y)
        pcall(tostring, x) pcall(tostring, y)
        debug.setmetatable(x, mx)
        debug.setmetatable(y, my)
      elseif type(x) == "userdata" then
        debug.setmetatable(x, nil)
        for _, method in pairs(methods_of(y)) do pcall(concur.timeout, 0, method, x) end
        for _, wait in ipairs { concur.gather, concur.await, concur.select, concur.race } do
          pcall(concur.timeout, 0, wait, x)
          pcall(concur.timeout, 0, wait, { x })
        end
        debug.setmetatable(x, mx)
      end
      animals.task:cancel()
      animals.timer:cancel()
      animals, x, y = nil, nil, nil
      collectgarbage()
    end
  ]])

  attack("metatables that were emptied", [[
    local animals = zoo()
    animals.task:cancel()
    animals.timer:cancel()
    animals.pool:shutdown()
    concur.sleep(0)
    for name, animal in pairs(animals) do
      local meta = debug.getmetatable(animal)
      local kept = {}
      for key, value in pairs(meta or {}) do kept[key] = value end
      for key in pairs(kept) do
        if key ~= "__gc" then rawset(meta, key, key == "__name" and 5 or error) end
      end
      pcall(tostring, animal)
      pcall(concur.timeout, 0, concur.gather, animal)
      pcall(concur.spawn, error, animal)
      for key, value in pairs(kept) do rawset(meta, key, value) end
    end
    pcall(concur.sleep, 0)
  ]])

  attack("values with metamethods that raise", [[
    local again = { __tostring = function() error "again" end }
    local function raise() error(setmetatable({}, again)) end
    local evil_meta = { __gc = raise, __close = raise, __name = {} }
    for _, event in ipairs { "tostring", "eq", "lt", "le", "index", "newindex", "call", "len",
        "concat", "pairs", "unm", "add", "mode", "metatable", "transfer", "await" } do
      evil_meta["__" .. event] = raise
    end
    local function evil() return setmetatable({}, evil_meta) end
    -- Everything public is called with them.
    local pool <close> = concur.ThreadPoolExecutor(1)
    for name in pairs { spawn = 1, await = 1, gather = 1, settle = 1, race = 1, any = 1,
        task_group = 1, timeout = 1, move_on_after = 1, cancel_scope = 1, shield = 1, pcall = 1,
        xpcall = 1, ContextVar = 1, wrap = 1, select = 1, after = 1, Lock = 1, Semaphore = 1,
        Queue = 1, LifoQueue = 1, PriorityQueue = 1, SharedBuffer = 1, Channel = 1, wait = 1,
        as_completed = 1, async = 1, Runner = 1, Condition = 1, Barrier = 1, to_thread = 1,
        ThreadPoolExecutor = 1, CapacityLimiter = 1, transferable = 1, sleep = 1, run = 1 } do
      pcall(concur.timeout, 0, concur[name], evil(), evil())
      pcall(concur.timeout, 0, concur[name], { evil(), evil() }, evil())
      pcall(concur.timeout, 0, concur[name], 1, evil())
    end
    concur.run(function()
      -- as errors, results, reasons, items and names
      local task = concur.spawn(error, evil())
      concur.wait { task }
      tostring(task)
      pcall(errors.format, task:exception())
      local waiting = concur.spawn(concur.sleep_forever)
      concur.sleep(0)
      waiting:cancel(evil())
      concur.wait { waiting }
      pcall(waiting.result, waiting)
      pcall(waiting.set_name, waiting, evil())
      local queue = concur.PriorityQueue()
      queue:put(evil())
      pcall(queue.put, queue, evil()) -- compares
      pcall(queue.get, queue)
      pcall(pool.submit, pool, type, evil())
      local failing = pool:submit(function()
        error(setmetatable({}, { __tostring = function() error "in the worker" end }))
      end)
      pcall(failing.result, failing)
      local _, e = pcall(concur.gather, function() error(evil()) end, function() error(evil()) end)
      pcall(errors.format, e)
      pcall(errors.is, e, "Cancelled")
      pcall(errors.split, e, evil())
      local ok, group = pcall(concur.task_group, function(group)
        group:spawn(error, evil())
        group:spawn(error, evil())
      end)
      assert(not ok)
      pcall(errors.format, group)
      pcall(errors.catch, function() error(group, 0) end, { Cancelled = evil() })
    end)
    concur.spawn(error, evil()) -- reported, with a __tostring that raises
    concur.sleep(0)
    warn "@off"
    collectgarbage()
  ]])

  attack("a priority queue whose comparison meddles with it", [[
    for round = 1, 40 do
      local queue, calls = concur.PriorityQueue(round % 3 == 0 and 4 or nil), 0
      local actions = {
        function() pcall(concur.timeout, 0, queue.put, queue, 5) end,
        function() pcall(concur.timeout, 0, queue.get, queue) end,
        function() queue:close() end,
        function() queue:close { immediate = true } end,
        function() error "from __lt" end,
        function() collectgarbage() end,
        function() queue:try_get() queue:try_get() end,
        function() concur.sleep(0) end,
        function() queue:try_put(setmetatable({}, {})) end,
      }
      local meta = {}
      function meta.__lt(a, b)
        calls = calls + 1
        if calls < 200 then actions[math.random(#actions)]() end
        return math.random(2) == 1
      end
      pcall(concur.run, function()
        local tasks = {}
        for i = 1, 8 do
          tasks[#tasks + 1] = concur.spawn(function()
            queue:put(setmetatable({}, meta))
            queue:get()
          end)
        end
        concur.wait(tasks, { timeout = 0.05 })
      end)
    end
  ]])

  attack("callbacks that close, cancel, spawn, collect and raise where they are called", [[
    local loop = concur.get_event_loop()
    local tasks = {}
    local nasty = {
      function() error "nasty" end,
      function() error(nil) end,
      function() collectgarbage() end,
      function() pcall(loop.close, loop) end,
      function() pcall(loop.step, loop, 0) end,
      function() pcall(concur.run, type, 1) end,
      function() pcall(concur.sleep, 0) end,
      function() for task in pairs(tasks) do task:cancel() end end,
      function() for task in pairs(tasks) do pcall(task.kill, task) end end,
      function() tasks[concur.spawn(concur.sleep, 0.001)] = true end,
      function() local t = concur.current_task() if t then t:cancel() end end,
      function() pcall(concur.current_scope().cancel, concur.current_scope()) end,
      function() loop:stop() end,
      function() coroutine.yield() end,
      function() coroutine.close(coroutine.running()) end,
    }
    local function pick() return nasty[math.random(#nasty)]() end
    local runner = concur.Runner { on_error = function() pick() end }
    for round = 1, 150 do
      pcall(runner.run, runner, function()
        local future = concur.Future()
        future:add_done_callback(pick)
        future:add_done_callback(function(f) f:add_done_callback(pick) pick() end)
        loop:call_soon(pick)
        loop:call_later(0, pick)
        for i = 1, 3 do
          tasks[concur.spawn(function()
            local _ <close> = setmetatable({}, { __close = pick })
            concur.suspend(function(resume)
              loop:call_soon(function() pick() resume(1) end)
              pick()
              return pick
            end)
            pick()
          end)] = true
        end
        concur.spawn(function()
          concur.sleep(0)
          future:set_result(setmetatable({}, { __gc = pick }))
        end)
        pcall(concur.xpcall, function() pick() error "x" end, pick)
        pcall(concur.move_on_after, 0.0005, function() pick() concur.sleep(1) end)
        for f in concur.as_completed({ future }, { timeout = 0.002 }) do pick() end
      end)
      for task in pairs(tasks) do
        if task:done() then tasks[task] = nil end
      end
    end
    loop:close()
  ]])

  attack("iterators and transfer hooks that meddle with their pool", [[
    local Box = {}
    Box.__index = Box
    local pool, channel
    local hooks = {
      function() error "in the hook" end,
      function() collectgarbage() end,
      function() pool:shutdown { wait = false } end,
      function() pcall(pool.submit, pool, type, 1) end,
      function() pcall(concur.sleep, 0) end,
      function() channel:close() end,
      function() channel:try_send(setmetatable({}, Box)) end,
      function() return coroutine.wrap(function() return 1 end)() end,
      function() end,
    }
    local function hook() return hooks[math.random(#hooks)]() end
    local depth = 0
    concur.transferable("box", Box, {
      encode = function(box)
        depth = depth + 1
        if depth < 20 then hook() end
        depth = depth - 1
        return { 1 }
      end,
      decode = function() hook() return setmetatable({}, Box) end,
    })
    for round = 1, 60 do
      pool = concur.ThreadPoolExecutor { workers = 1, queue_size = 2 }
      channel = concur.Channel(2)
      depth = 0
      pcall(concur.run, function()
        pcall(concur.timeout, 0.5, function()
          local box = setmetatable({}, Box)
          pcall(function() pool:submit(function(...) return ... end, box):result() end)
          pcall(channel.send, channel, box)
          pcall(channel.recv, channel)
          local it
          it = pool:map(type, function()
            hook()
            if math.random(5) == 1 then it:close() end
            return math.random(4) > 1 and box or nil
          end)
          pcall(function() for i in it do hook() end end)
          it:close()
        end)
      end)
      pool:shutdown()
    end
  ]])

  attack("generators and scopes used from each other", [[
    for round = 1, 100 do
      pcall(concur.run, function()
        local scope, group, gen
        gen = concur.wrap(function()
          pcall(function() gen() end)
          pcall(function() gen:close() end)
          concur.sleep(0)
          coroutine.yield(1)
          if scope then scope:cancel() end
          concur.sleep(0)
          coroutine.yield(2)
        end)
        concur.cancel_scope(function(s)
          scope = s
          concur.task_group(function(g)
            group = g
            g:spawn(function() pcall(gen) end)
            g:spawn(function() pcall(gen) g:cancel() end)
            pcall(gen)
            if round % 2 == 0 then error "leave" end
          end)
        end)
        pcall(group.spawn, group, print)
        scope:cancel()
        scope:deadline(0)
        pcall(gen)
        gen:close()
        collectgarbage()
      end)
    end
  ]])

  attack("objects that are used after they were finalized", [[
    -- Holders made before what they hold are finalized after it.
    for round = 1, 5 do
      local holders = {}
      for i = 1, 40 do
        holders[i] = setmetatable({}, { __gc = function(holder)
          for _, animal in pairs(holder) do
            if type(animal) ~= "function" then
              for name, method in pairs(methods_of(animal)) do
                if name ~= "run_forever" then pcall(method, animal) pcall(method, animal, 1) end
              end
              pcall(tostring, animal)
              _G.resurrected = animal
            end
          end
        end })
      end
      local names, i = {}, 0
      for name, animal in pairs(zoo()) do
        i = i + 1
        holders[i % 40 + 1][name] = animal
        if name == "task" or name == "timer" then animal:cancel() end
      end
      pcall(concur.sleep, 0)
      holders = nil
      collectgarbage()
      collectgarbage()
      pcall(poke, resurrected, resurrected)
      pcall(concur.sleep, 0) -- where EventLoop:stop is felt
    end
  ]])

  attack("finalizers that raise, in every step", [[
    warn "@off"
    local function litter() setmetatable({}, { __gc = function() error "litter" end }) end
    concur.run(function()
      debug.sethook(function() litter() collectgarbage "step" end, "", 50)
      local queue = concur.Queue(1)
      concur.gather(
        function() for i = 1, 50 do queue:put(i) litter() end queue:close() end,
        function() for _ in queue:iter() do litter() end end,
        function() for _ = 1, 20 do pcall(concur.timeout, 0, concur.sleep, 1) end end)
      debug.sethook()
      collectgarbage()
    end)
  ]])

  attack("hooks that raise at any instruction", [[
    for count = 1, 300, 7 do
      pcall(concur.run, function()
        local task = concur.spawn(function()
          local n = 0
          debug.sethook(function()
            n = n + 1
            if n == 3 then error "from the hook" end
          end, "", count)
          local lock <close> = concur.Lock():acquire()
          concur.task_group(function(group)
            group:spawn(concur.sleep, 0)
            group:spawn(function() pcall(concur.timeout, 0, concur.sleep_forever) end)
          end)
          local queue = concur.Queue()
          queue:put(1)
          queue:get()
        end)
        concur.wait { task }
        pcall(task.result, task)
      end)
      debug.sethook()
    end
  ]])

  attack("far too much of everything", [[
    local function try(fn, ...) pcall(fn, ...) end
    local many = {}
    for i = 1, 200000 do many[i] = i end
    concur.run(function()
      try(function() return concur.spawn(type, table.unpack(many)):result() end)
      try(function() return concur.spawn(table.unpack, many, 1, 200000):result() end)
      try(function() return concur.gather(table.unpack(many, 1, 10000)) end)
      try(function() return concur.Future():set_result(table.unpack(many, 1, 200000)) end)
      try(function() return concur.to_thread(select, "#", table.unpack(many, 1, 100000)) end)
      try(function() return concur.to_thread(table.unpack, many) end)
      try(concur.SharedBuffer, 1 << 62)
      try(concur.Queue, 1 << 62)
      try(concur.Semaphore, 1 << 62)
      try(concur.Barrier, 1 << 62)
      try(concur.Channel, 1 << 62)
      try(concur.ThreadPoolExecutor, 1 << 62)
      local function nested(depth) return concur.timeout(60, nested, depth + 1) end
      try(nested, 1)
      local function groups() return concur.task_group(groups) end
      try(groups)
      local function shields() return concur.shield(shields) end
      try(shields)
      local function awaits() return concur.await(setmetatable({}, { __await = awaits })) end
      try(awaits)
      local function strings() return concur.pcall(function() return strings() .. "" end) end
      try(strings)
      local deep = {}
      for _ = 1, 100000 do deep = { deep } end
      try(concur.to_thread, type, deep)
      local e = errors.is
      local cause = nil
      for _ = 1, 1000 do
        local _, err = pcall(concur.task_group, function() error(cause or "first", 0) end)
        cause = err
      end
      try(errors.format, cause)
      try(errors.is, cause, "TimeoutError")
      try(errors.leaves, cause)
    end)
  ]])
end)

describe("hostile Lua does not crash what talks to the outside", function()
  attack("arguments of every kind, to everything that makes something", [[
    local animals = zoo()
    local values = { false, 0, -1, 1.5, 2^63, math.huge, 0/0, "", "x", ("y"):rep(70000), "a\0b",
      "127.0.0.1", {}, { 1, 2 }, print, coroutine.create(print), io.stdout }
    for _, animal in pairs(animals) do values[#values + 1] = animal end
    local makers = {}
    for _, name in ipairs { "net", "process", "signal", "dns" } do
      for key, value in pairs(concur[name]) do
        if type(value) == "function" then makers[#makers + 1] = value end
      end
    end
    makers[#makers + 1] = concur.ProcessPoolExecutor
    local function pick() return values[math.random(#values)] end
    for round = 1, 600 do
      local maker = makers[math.random(#makers)]
      local options = {}
      for _, key in ipairs { "path", "input", "cwd", "env", "limit", "timeout", "port", "stdin",
          "stdout", "check", "workers", "command", "family", 1, 2 } do
        if math.random(6) == 1 then options[key] = pick() end
      end
      if maker == concur.signal.raise then
        pcall(maker, type(pick()) == "string" and "SIGWINCH" or {})
      elseif maker ~= concur.net.from_fd and maker ~= concur.net.listen_fd then
        -- (any number may be a descriptor of somebody's: as with io's, that is the caller's care)
        local ok, made = pcall(concur.timeout, 0, maker, math.random(2) == 1 and options or pick(),
          pick(), math.random(2) == 1 and options or nil)
        if ok and made then pcall(function() made:close() end) end
      end
    end
  ]])

  attack("streams, listeners and sockets closed by those whom they call or wake", [[
    local things
    local acts = {
      function() things.a:close(0) end, function() things.b:close(0.001) end,
      function() things.listener:close() end, function() things.udp:close() end,
      function() things.a:shutdown() end, function() things.group:cancel() end,
      function() things.a:detach() end, function() error "in a callback" end,
      function() collectgarbage() end, function() things.a:write(("w"):rep(300000)) end,
      function() things.b:read_some() end, function() debug.setmetatable(things.b, nil) end,
      function() concur.get_event_loop():stop() end,
    }
    local function act() return pcall(acts[math.random(#acts)]) end
    for round = 1, 150 do
      local meta
      pcall(concur.run, function()
        things = { listener = assert(concur.net.listen("127.0.0.1", 0)),
          udp = assert(concur.net.udp("127.0.0.1", 0)) }
        things.a, things.b = concur.net.socketpair()
        meta = debug.getmetatable(things.a)
        pcall(concur.timeout, 0.01, concur.task_group, function(group)
          things.group = group
          local function start(fn)
            local task = group:spawn(function()
              local _ <close> = setmetatable({}, { __close = act, __gc = act })
              pcall(fn)
              act()
            end)
            task:add_done_callback(act)
          end
          start(function() things.a:read "a" end)
          start(function() for _ in things.b:lines() do act() end end)
          start(function() things.b:write(("x"):rep(500000)) end)
          start(function() things.listener:accept() end)
          start(function()
            local stream <close> = concur.net.connect(things.listener:address())
            stream:read()
          end)
          start(function() things.udp:recv_from() end)
          start(function()
            local _, port = things.udp:address()
            things.udp:send_to("x", "127.0.0.1", port)
          end)
          concur.get_event_loop():call_soon(act)
          act()
        end)
      end)
      local hostile = acts
      acts = { function() end } -- finalizers that come now do nothing
      debug.setmetatable(things.b, meta)
      things = { a = things.a, b = things.b } -- others are collected with their tasks' traces
      pcall(things.a.close, things.a, 0)
      pcall(things.b.close, things.b, 0)
      acts = hostile
      if round % 10 == 0 then collectgarbage() end
    end
    -- What the last ones asked of the loop ends it.
    acts = { function() end }
    collectgarbage()
    pcall(concur.sleep, 0)
  ]])

  attack("processes and signals ended inside their own callbacks", [[
    local child, it
    local acts = {
      function() child:close() end, function() child:kill() end,
      function() child:kill "SIGSTOP" end,
      function() child.stdout:close() end, function() child.stdin:write "x" end,
      function() it:close() end, function() concur.signal.raise "SIGWINCH" end, function() it() end,
      function() collectgarbage() end, function() error "in a callback" end,
      function() concur.get_event_loop():close() end, function() concur.current_task():cancel() end,
      function() child = nil collectgarbage() end,
    }
    local function act() return pcall(acts[math.random(#acts)]) end
    it = concur.signal.receive "SIGWINCH"
    for round = 1, 25 do
      pcall(concur.run, function()
        it = concur.signal.receive("SIGWINCH", "SIGCHLD")
        child = concur.process.spawn { "sh", "-c", "cat; exit 3", stdin = "pipe",
          stdout = "pipe", grace = 0.05 }
        local tasks = {}
        for _, fn in ipairs { function() child:wait() end, function() child.stdout:read "a" end,
            function() for _ in it do act() end end,
            function() concur.process.run { "echo", "x" } end } do
          local task = concur.spawn(function()
            local _ <close> = setmetatable({}, { __close = act })
            pcall(fn)
            act()
          end)
          task:add_done_callback(act)
          tasks[#tasks + 1] = task
        end
        act()
        concur.wait(tasks, { timeout = 0.02 })
      end)
      pcall(function() child:close() end)
      it:close()
    end
    it = concur.signal.receive "SIGWINCH" -- left open to the end
  ]])

  attack("process pools whose hooks and callbacks turn on them", [[
    local Box = {}
    local pool
    local acts = {
      function() error "in a hook" end, function() collectgarbage() end,
      function() pool:shutdown { wait = false } end, function() pool:submit(type, 1):cancel() end,
      function() pool:stats() end,
      function() for f in pairs(pool.flying or {}) do f:cancel() end end,
      function() concur.sleep(0) end, function() pool:submit("os.exit", 1) end,
    }
    local function act() pcall(acts[math.random(#acts)]) end
    concur.transferable("hostile box", Box, {
      encode = function() act() return { 1 } end,
      decode = function() act() return setmetatable({}, Box) end,
    })
    for round = 1, 6 do
      pool = concur.ProcessPoolExecutor { workers = 2, max_crashes = 3, queue_size = 4 }
      pcall(concur.run, function()
        pcall(concur.timeout, 0.3, function()
          for i = 1, 12 do
            local future = pool:try_submit(function(...) return ... end, setmetatable({}, Box))
            if future then future:add_done_callback(act) end
            act()
          end
          for i in pool:map(type, function() act() return math.random(5) > 1 and 1 or nil end) do
            act()
          end
        end)
      end)
      pool:shutdown { grace = 0.01 }
    end
  ]])

  attack("the C API's futures and timers, settled and set by their own callbacks", [[
    for round = 1, 50 do
      pcall(concur.run, function()
        local future, promise = capi.future()
        local timer
        local function meddle()
          pcall(function() promise:settle(1) end)
          pcall(function() promise:fail("OSError", "x") end)
          pcall(function() promise:settle_cancelled() end)
          pcall(function() timer:stop() end)
          pcall(function() timer:set(0.0001) end)
          collectgarbage()
        end
        timer = capi.timer(meddle)
        timer:set(0)
        future:add_done_callback(meddle)
        concur.spawn(function()
          local _ <close> = setmetatable({}, { __close = meddle, __gc = meddle })
          pcall(future.result, future)
          meddle()
        end)
        if round % 3 == 0 then future:cancel() end
        concur.sleep(0.001)
        if round % 5 == 0 then error "leave" end
      end)
    end
  ]])
end)

describe("finalizers while the state closes", function()
  it("may use everything there is", function()
    for _, order in ipairs { "before", "after" } do
      local result = support.run_lua(PRELUDE .. ([[
        local function last()
          for name, value in pairs(concur) do
            if type(value) == "function" and name ~= "main" then
              pcall(value) pcall(value, type) pcall(value, 1, type) pcall(value, {})
            end
          end
          for _, animal in pairs(_G.animals) do
            for name, method in pairs(methods_of(animal)) do
              if not DANGEROUS[name] then pcall(method, animal) pcall(method, animal, type, 1) end
            end
          end
        end
        local order = "%s"
        if order == "after" then setmetatable({}, { __gc = last }) _G.keep = nil end
        local early = setmetatable({}, { __gc = last })
        _G.animals = zoo()
        animals.waiting = concur.spawn(function()
          local _ <close> = setmetatable({}, { __close = last, __gc = last })
          concur.sleep_forever()
        end)
        -- What an early finalizer has stopped or closed raises here, and rightly so.
        pcall(function()
          animals.job = animals.pool:submit(function() for i = 1, 1e7 do math.abs(i) end end)
        end)
        pcall(concur.sleep, 0.001)
        if order == "before" then setmetatable({}, { __gc = last }) end
        _G.late = setmetatable({ early }, { __gc = last })
        print "closing"
      ]]):format(order), {
        timeout = 30,
        -- Lua finalizes nothing that is made while it closes; a file opened then stays open, too.
        env = sanitizers "detect_leaks=0",
      })
      assert.equal(0, result.code, support.describe(result))
      assert.equal("closing\n", result.stdout)
    end
  end)
end)
